package hypercall

import "fmt"

// A Trap is the instruction by which a guest calls the hypervisor.
type Trap uint8

// Instructions that call the hypervisor.
const (
	TrapVMCALL  Trap = iota // Intel
	TrapVMMCALL             // AMD
)

// String returns the instruction's name.
func (t Trap) String() string {
	switch t {
	case TrapVMCALL:
		return "VMCALL"
	case TrapVMMCALL:
		return "VMMCALL"
	}
	return fmt.Sprintf("Trap(%d)", uint8(t))
}

// TrapLength is the length of VMCALL and of VMMCALL in bytes.
const TrapLength = 3

// Bytes returns the instruction, and that of VMCALL if there is no such Trap.
func (t Trap) Bytes() [TrapLength]byte {
	if t == TrapVMMCALL {
		return [TrapLength]byte{0x0f, 0x01, 0xd9}
	}
	return [TrapLength]byte{0x0f, 0x01, 0xc1}
}

// A HypercallPage is code for the hypercall page, through which guests call the hypervisor
// without knowing by which instruction (TLFS hypercall-interface.md, "Establishing the
// Hypercall Interface"; vsm.md, "Hypercall Page Assist"). At its beginning is the entry for
// all calls, the same in 32- and 64-bit mode; at the offsets that Offsets returns are those
// for VTL calls and returns, for each mode. All are to be called, and return:
//
//	offset  mode  code
//	0x00    all   trap; ret
//	0x10    64    mov rax, rcx; mov ecx, 0x11; trap; ret
//	0x20    64    mov rax, rcx; mov ecx, 0x12; trap; ret
//	0x30    32    mov ecx, eax; mov eax, 0x11; trap; ret
//	0x40    32    mov ecx, eax; mov eax, 0x12; trap; ret
//
// A caller of the last four has the control input in RCX, in 32-bit mode in EDX:EAX. The code
// moves it (in 32-bit mode its low half) to RAX, in 32-bit mode ECX, and puts the hypercall
// input word in its place: the call code alone. In 32-bit mode the input's high half remains
// in EDX, as the high half of the input word, which is no VTL call or return if it is not 0.
//
// INT3 is everywhere else. The zero value is the page for VMCALL.
type HypercallPage struct {
	Trap Trap
}

// Offsets of entries in the hypercall page.
const (
	pageCall64   = 0x10
	pageReturn64 = 0x20
	pageCall32   = 0x30
	pageReturn32 = 0x40
)

// Offsets returns where in the page the VTL call and return of a mode are, the value of
// [RegisterVsmCodePageOffsets] for a level that runs in it.
func (h HypercallPage) Offsets(long bool) VsmCodePageOffsets {
	if long {
		return VsmCodePageOffsets(0).WithVtlCallOffset(pageCall64).WithVtlReturnOffset(pageReturn64)
	}
	return VsmCodePageOffsets(0).WithVtlCallOffset(pageCall32).WithVtlReturnOffset(pageReturn32)
}

// Write writes the page's 4096 bytes.
func (h HypercallPage) Write(page []byte) error {
	if len(page) != len(sharedPage{}) {
		return fmt.Errorf("%w: the hypercall page takes 4096 bytes, not %d", ErrSize, len(page))
	}
	if h.Trap > TrapVMMCALL {
		return fmt.Errorf("hypercall: %v is no instruction that calls the hypervisor: it is VMCALL or VMMCALL", h.Trap)
	}
	const (
		int3 = 0xcc
		ret  = 0xc3
	)
	for i := range page {
		page[i] = int3
	}
	trap := h.Trap.Bytes()
	for _, e := range []struct {
		offset int
		prefix []byte
		code   Code
	}{
		{0, nil, 0},
		{pageCall64, []byte{0x48, 0x89, 0xc8, 0xb9}, CodeVtlCall},     // mov rax, rcx; mov ecx, imm32
		{pageReturn64, []byte{0x48, 0x89, 0xc8, 0xb9}, CodeVtlReturn}, //
		{pageCall32, []byte{0x89, 0xc1, 0xb8}, CodeVtlCall},           // mov ecx, eax; mov eax, imm32
		{pageReturn32, []byte{0x89, 0xc1, 0xb8}, CodeVtlReturn},       //
	} {
		b := append(page[:e.offset], e.prefix...)
		if e.prefix != nil {
			b = append(b, byte(e.code), byte(e.code>>8), 0, 0)
		}
		_ = append(append(b, trap[:]...), ret)
	}
	return nil
}
