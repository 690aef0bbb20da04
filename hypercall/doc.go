// Package hypercall knows the Hyper-V ABI: what passes between a hypervisor with the
// interface "Hv#1" and its guests.
//
// Chapters and data types in comments are those of the Hypervisor Top Level Functional
// Specification (TLFS), as in the repository MicrosoftDocs/Virtualization-Documentation
// at commit 77e0742a of 7 August 2026. What is not there, or where it disagrees with
// those who implement it, is from OpenVMM (vm/hv1/hvdef, "hvdef", at 1488a37b), Linux
// (include/hyperv), QEMU, the HDK's headers, and from names in Windows that
// gerhart01 has collected.
//
// # Words
//
// A guest calls with an [Input]: a [Code], and how many elements of a list are to be done
// from where. It gets back a [Result]: a [Status], and how many are done. A Status is
// an error. To decode is to convert:
//
//	w := hypercall.Input(rcx)
//	if w.Code() == hypercall.CodeVtlCall && w == hypercall.Input(hypercall.CodeVtlCall) {
//		switchLevel()
//	}
//
// Words take any value, allocate nothing and take a few instructions; printing
// allocates. Each type prints what every bit says, reserved ones too, and a Parse
// function reads that back.
//
// # Tables
//
// Calls, statuses, registers, synthetic MSRs and the bits of privileges, CPUID leaves
// and MSRs are generated from CSV files, in which each row has its sources. Sources
// methods tell them; a constant that only one source has says so. Where sources
// disagree on a name, the TLFS' is taken and the others are kept as Aliases, which the
// Parse functions read, too. [Code.Layout] tells how long the parameters of a call are.
//
// # Discovery
//
// [Leaves] are CPUID leaves 0x40000000 to 0x4000000C in typed form: [ReadLeaves] is the
// guest's side, [Leaves.CPUID] the hypervisor's. [GuestOSID] is how a guest says what
// it is, and [HypercallMSR] where the hypercall page shall lie.
//
// # Levels
//
// A [VTL] is a virtual trust level, an [InputVTL] how calls name one.
//
// # Structures
//
// Types such as [EnableVpVtlInput] are what lies in memory or in registers. Their methods
// Get and Put read and write it without allocation; AppendBinary and UnmarshalBinary are
// stricter forms of them.
//
// # Calls
//
// A [Caller] makes calls, in registers where that is possible and else in memory;
// [Caller.Invoke], [InvokeList] and [InvokeListOut] take typed parameters. A [Dispatcher]
// is the other side: it finds the parameters of the [Call] that a virtual processor makes,
// copies and checks them, has a [Handler] carry the call out, and leaves the results.
// [SimpleFunc], [RepFunc] and their like make a Handler of a function; package vtl has
// those for trust levels.
package hypercall
