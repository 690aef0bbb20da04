/* A VBS enclave as the linker of Visual Studio would lay it out: a DLL whose load
   configuration points to an enclave configuration with two imports. The names of
   members are those of winnt.h. It has no code worth running. */

#ifdef __x86_64__
#define POINTER .quad
#define LOAD_CONFIG_SIZE 256
#define ENCLAVE_POINTER 248
#define CONFIG_SIZE 80
#define MINIMUM_SIZE 76
#define GLOBAL(name) name
#else
#define POINTER .long
#define LOAD_CONFIG_SIZE 160
#define ENCLAVE_POINTER 156
#define CONFIG_SIZE 76
#define MINIMUM_SIZE 72
#define GLOBAL(name) _##name
#endif

	.section .rdata,"dr"

	.globl	GLOBAL(load_config)
	.balign	16
GLOBAL(load_config):
	.long	LOAD_CONFIG_SIZE
	.fill	ENCLAVE_POINTER-4
	POINTER	config
	.balign	8

config:
	.long	CONFIG_SIZE
	.long	MINIMUM_SIZE		/* MinimumRequiredConfigSize */
	.long	3			/* PolicyFlags: DEBUGGABLE, STRICT_MEMORY */
	.long	2			/* NumberOfImports */
	.rva	imports			/* ImportList */
	.long	80			/* ImportEntrySize */
	.ascii	"family of tests."	/* FamilyID */
	.ascii	"image for tests."	/* ImageID */
	.long	0x00010002		/* ImageVersion */
	.long	7			/* SecurityVersion */
	POINTER	0x10000000		/* EnclaveSize */
	.long	16			/* NumberOfThreads */
	.long	1			/* EnclaveFlags: PRIMARY_IMAGE */

	.balign	8
imports:
	.long	2			/* MatchType: AUTHOR_ID */
	.long	0			/* MinimumSecurityVersion */
	.fill	32			/* UniqueOrAuthorID: a part of Windows */
	.fill	16
	.fill	16
	.rva	vertdll			/* ImportName */
	.long	0			/* Reserved */

	.long	3			/* MatchType: FAMILY_ID */
	.long	5
	.fill	32
	.ascii	"family of tests."
	.fill	16
	.rva	other
	.long	0

vertdll:
	.asciz	"vertdll.dll"
other:
	.asciz	"other_enclave.dll"

	.text
	.globl	GLOBAL(entry)
GLOBAL(entry):
	movl	$1, %eax
	ret
