/*
 * What /dev/vtx takes: one ioctl, whose request says what to do in ring 0. The
 * program ../attack has the same layout in Go.
 */
#ifndef VTXATTACK_H
#define VTXATTACK_H

#include <linux/ioctl.h>
#include <linux/types.h>

enum vtx_what {
	VTX_READ = 1,	/* c = the 8 bytes at physical address a */
	VTX_WRITE,	/* the 8 bytes at physical address a = b */
	VTX_READ_OOPS,	/* as VTX_READ, but nobody catches the exception */
	VTX_EXECUTE,	/* call physical address a; nobody catches the exception */
	VTX_RDMSR,	/* c = MSR a */
	VTX_WRMSR,	/* MSR a = b, then back; b = before, c = after the write */
	VTX_CR,		/* flip the bits b of CRa, then back; b = before, c = after */
	VTX_VMX,	/* the VMX instruction a (enum vtx_instruction) */
	VTX_HYPERCALL,	/* input word a, input at b, output at c; c = result */
	VTX_VTL_CALL,	/* VMCALL with RCX = a, RAX = b, RDX = c */
	VTX_SOAK,	/* a VTL calls; the page holds a struct vtx_soak */
	VTX_IN,		/* c = port a, b bytes wide */
	VTX_OUT,	/* port a = c, b bytes wide */
	VTX_MOVE,	/* the 4 bytes at physical address b = those at a, in one instruction */
	VTX_OUTS,	/* port b = the byte at physical address a */
	VTX_INS,	/* the byte at physical address a = port b */
	VTX_WALK,	/* have the processor use the 8 bytes at physical address a as part of a page table */
	VTX_OVERLAY,	/* MSR a = b; b = exception of reading c = the 8 bytes at physical address c; a VTL call; MSR a as before */
};

/* As an address of a hypercall's input or output, or as c of a VTL call: that of the
 * request's page; that of a page for output which nobody sees. */
#define VTX_PAGE (~0ULL)
#define VTX_OUTPUT (~1ULL)

enum vtx_instruction {
	VTX_VMXON, VTX_VMXOFF, VTX_VMCLEAR, VTX_VMPTRLD, VTX_VMPTRST, VTX_VMREAD,
	VTX_VMWRITE, VTX_VMLAUNCH, VTX_VMRESUME, VTX_INVEPT, VTX_INVVPID, VTX_VMFUNC,
};

struct vtx_request {
	__u32 what;
	__s32 vector;	/* out: the exception that was raised, -1 for none */
	__u64 a, b, c;
	__u8 page[4096];
};

struct vtx_soak {
	__u64 done;	/* calls that came back */
	__u64 wrong;	/* of these, with an answer other than the first one */
	__u64 sent;	/* interrupts sent to this processor right before a call */
	__u64 received;	/* of these, taken right after the call */
	__u64 timer;	/* interrupts of the timer in the meantime */
};

#define VTX_DO _IOWR('v', 1, struct vtx_request)

#endif
