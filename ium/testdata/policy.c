/*
 * policy.c: images with a policy, as a trustlet has one. See make.sh for the macros:
 * EXPORT is the name of the policy's export, SECTION the section it is in.
 */
#include <windows.h>

#ifndef EXPORT
#define EXPORT __ImagePolicyMetadata
#endif
#ifndef SECTION
#define SECTION ".tPolicy"
#endif
#ifdef NO_EXPORT
#define EXPORTED
#else
#define EXPORTED __declspec(dllexport)
#endif

struct entry {
	UINT32 type, id;
	union {
		UINT64 number;
		const void *pointer;
	};
};

struct metadata {
	UINT8 version, reserved[7];
	UINT64 id;
	struct entry entries[10];
};

static const char scenario[] __attribute__((section(SECTION))) = "{01234567-89AB-CDEF-0123-456789ABCDEF}";
static const WCHAR parent[] __attribute__((section(SECTION))) = L"D:(A;;GA;;;S-1-5-83-0)";
static const WCHAR device[] __attribute__((section(SECTION))) = L"PCI\\VEN_1234 \u00b5";

EXPORTED const struct metadata EXPORT __attribute__((section(SECTION), used)) = {
	1, {0}, 0x1234,
	{
		{7, 1, {1}},                    /* UInt32, Etw */
		{7, 2, {2}},                    /* UInt32, Debug: without Secure Boot */
		{7, 3, {1}},                    /* UInt32, CrashDump */
		{11, 6, {.pointer = parent}},   /* UnicodeString, ParentSd */
		{7, 7, {1}},                    /* UInt32, ParentSdRev */
		{7, 8, {0x20001}},              /* UInt32, Svn */
		{11, 9, {.pointer = device}},   /* UnicodeString, DeviceId */
		{9, 10, {3}},                   /* UInt64, Capability */
		{10, 11, {.pointer = scenario}},/* AnsiString, ScenarioId */
		{0, 0, {0}},
	}
};

#ifdef BOTH
/* The other name for the same policy. */
__asm__(".section .drectve,\"yn\"\n\t.ascii \" -export:s_IumPolicyMetadata=__ImagePolicyMetadata,data\"\n\t.text");
#endif
#ifdef TWO
/* Another policy under the older name. */
__declspec(dllexport) const struct metadata s_IumPolicyMetadata __attribute__((section(SECTION), used)) = {1, {0}, 0x4321, {{0}}};
#endif

int __stdcall entry(void *a, unsigned long b, void *c) { return 1; }
