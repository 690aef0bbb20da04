package asm_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"unsafe"

	"github.com/govtx/vtx/internal/require"

	"github.com/govtx/vtx/asm"
)

// aligned returns n bytes at a multiple of align.
func aligned(align, n int) []byte {
	b := make([]byte, n+align)
	skip := -int(uintptr(unsafe.Pointer(&b[0]))) & (align - 1)
	return b[skip : skip+n]
}

func TestStatus(t *testing.T) {
	for s, want := range map[asm.Status]struct {
		text string
		err  error
	}{
		asm.Succeed:     {"VMsucceed", nil},
		asm.FailInvalid: {"VMfailInvalid", asm.ErrFailInvalid},
		asm.FailValid:   {"VMfailValid", asm.ErrFailValid},
		3:               {"Status(3)", asm.ErrFailValid},
		255:             {"Status(255)", asm.ErrFailValid},
	} {
		require.Equal(t, want.text, s.String())
		require.Equal(t, want.err, s.Err())
	}
	require.NotErrorIs(t, asm.ErrFailInvalid, asm.ErrFailValid)
}

func TestFaultError(t *testing.T) {
	for _, c := range []struct {
		fault asm.Fault
		want  string
	}{
		{asm.Fault{Instruction: "VMREAD", Vector: 6, PC: 0x401000},
			"asm: VMREAD at 0x401000 raised #UD: not in VMX operation (run VMXON first), or not on this processor"},
		{asm.Fault{Instruction: "RDMSR", Vector: 13, PC: 0x401000, Operand: 0x48f},
			"asm: RDMSR of 0x48f at 0x401000 raised #GP: no such MSR, or a value it refuses"},
		{asm.Fault{Instruction: "LTR", Vector: 13, Code: 0x28, PC: 0x401000},
			"asm: LTR at 0x401000 raised #GP(0x28)"},
		{asm.Fault{Instruction: "HLT", Vector: 31}, "asm: HLT at 0x0 raised Vector(31)"},
		{asm.Fault{Instruction: "HLT", Vector: 9}, "asm: HLT at 0x0 raised Vector(9)"},
		{asm.Fault{Instruction: "HLT", Vector: 255}, "asm: HLT at 0x0 raised Vector(255)"},
		{asm.Fault{Instruction: "CLI", Err: asm.ErrPrivilege},
			"asm: CLI: needs privilege level 0: boot the program in ring 0"},
		{asm.Fault{Instruction: "CLI", Err: asm.ErrNotSupported},
			"asm: CLI: not supported by this processor"},
	} {
		require.Equal(t, c.want, c.fault.Error())
	}

	// Every hint is a sentence behind the exception's name.
	for _, i := range []string{"VMXON", "VMCALL", "VMFUNC", "XSETBV"} {
		f := asm.Fault{Instruction: i, Vector: 6}
		_, hint, ok := strings.Cut(f.Error(), "#UD: ")
		require.True(t, ok, i)
		require.NotEmpty(t, hint)
	}
	require.ErrorContains(t, &asm.Fault{Instruction: "VMXON", Vector: 13}, "IA32_FEATURE_CONTROL")
}

func TestFaultIs(t *testing.T) {
	err := error(&asm.Fault{Instruction: "VMXON", Err: asm.ErrNotSupported})
	require.ErrorIs(t, err, asm.ErrNotSupported)
	require.ErrorIs(t, err, errors.ErrUnsupported)
	require.NotErrorIs(t, err, asm.ErrPrivilege)
	require.NotErrorIs(t, asm.ErrPrivilege, errors.ErrUnsupported)
	require.NoError(t, errors.Unwrap(&asm.Fault{Instruction: "VMXON", Vector: 6}))
}

func TestTry(t *testing.T) {
	require.NoError(t, asm.Try(func() {}))

	fault := &asm.Fault{Instruction: "VMXON", Vector: 13}
	require.Equal(t, error(fault), asm.Try(func() { panic(fault) }))

	require.PanicsWithValue(t, "other", func() { _ = asm.Try(func() { panic("other") }) })
	var m map[string]int
	require.Panics(t, func() { _ = asm.Try(func() { m["x"] = 1 }) })
}

// A nil map, an index or an error that wraps a Fault is no Fault.
func TestTryWrapped(t *testing.T) {
	wrapped := fmt.Errorf("wrapped: %w", &asm.Fault{Instruction: "VMXON"})
	require.PanicsWithError(t, wrapped.Error(), func() { _ = asm.Try(func() { panic(wrapped) }) })
}
