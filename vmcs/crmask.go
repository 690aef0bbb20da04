package vmcs

import (
	"fmt"

	"github.com/govtx/vtx/asm"
)

// A CRMask is the guest/host mask and the read shadow of CR0, or of CR4
// (SDM Vol. 3C 25.6.6). A bit that is 1 in the mask belongs to the host: the guest
// reads it from the shadow, and exits when it tries to write another value than
// the shadow's. Any other bit belongs to the guest, which reads and writes the
// real register's.
type CRMask struct {
	Mask   uint64
	Shadow uint64
}

// ReadCR0Mask reads the fields [CR0GuestHostMask] and [CR0ReadShadow].
func ReadCR0Mask(r Reader) (CRMask, error) { return readCRMask(r, CR0GuestHostMask, CR0ReadShadow) }

// ReadCR4Mask reads the fields [CR4GuestHostMask] and [CR4ReadShadow].
func ReadCR4Mask(r Reader) (CRMask, error) { return readCRMask(r, CR4GuestHostMask, CR4ReadShadow) }

func readCRMask(r Reader, mask, shadow Field) (m CRMask, err error) {
	if m.Mask, err = r.Read(mask); err != nil {
		return CRMask{}, err
	}
	if m.Shadow, err = r.Read(shadow); err != nil {
		return CRMask{}, err
	}
	return m, nil
}

// WriteCR0 writes the fields [CR0GuestHostMask] and [CR0ReadShadow].
func (m CRMask) WriteCR0(w Writer) error { return m.write(w, CR0GuestHostMask, CR0ReadShadow) }

// WriteCR4 writes the fields [CR4GuestHostMask] and [CR4ReadShadow].
func (m CRMask) WriteCR4(w Writer) error { return m.write(w, CR4GuestHostMask, CR4ReadShadow) }

func (m CRMask) write(w Writer, mask, shadow Field) error {
	if err := w.Write(mask, m.Mask); err != nil {
		return err
	}
	return w.Write(shadow, m.Shadow)
}

// Read returns what the guest reads, by MOV from CR0 or CR4 or SMSW, when the
// real register has the given value (SDM Vol. 3C 26.3).
func (m CRMask) Read(real uint64) uint64 { return m.Shadow&m.Mask | real&^m.Mask }

// MOVExits reports whether a guest's MOV of a value to CR0 or CR4 causes a VM exit
// (SDM Vol. 3C 26.1.3).
func (m CRMask) MOVExits(value uint64) bool { return (value^m.Shadow)&m.Mask != 0 }

// MOV returns what the real register becomes by a guest's MOV of a value to CR0
// or CR4 that causes no VM exit: host-owned bits stay (SDM Vol. 3C 26.3). The
// instruction faults if the result is not supported in VMX operation.
func (m CRMask) MOV(real, value uint64) uint64 { return real&m.Mask | value&^m.Mask }

const cr0LMSWBits = asm.CR0PE | asm.CR0MP | asm.CR0EM | asm.CR0TS

// LMSWExits reports whether a guest's LMSW of a value causes a VM exit, by the
// mask of CR0 (SDM Vol. 3C 26.1.3). LMSW writes CR0.PE, MP, EM and TS, but never
// clears PE, so an attempt to clear PE does not count.
func (m CRMask) LMSWExits(value uint16) bool {
	differs := (uint64(value) ^ m.Shadow) & m.Mask & cr0LMSWBits
	if value&asm.CR0PE == 0 {
		differs &^= asm.CR0PE
	}
	return differs != 0
}

// LMSW returns what the real CR0 becomes by a guest's LMSW of a value that causes
// no VM exit (SDM Vol. 3C 26.3).
func (m CRMask) LMSW(real uint64, value uint16) uint64 {
	written := cr0LMSWBits &^ m.Mask
	return real&^(written&^asm.CR0PE) | uint64(value)&written
}

// CLTSExits reports whether a guest's CLTS causes a VM exit, by the mask of CR0:
// if the host owns CR0.TS, and its shadow is 1 (SDM Vol. 3C 26.1.3).
func (m CRMask) CLTSExits() bool { return m.Mask&m.Shadow&asm.CR0TS != 0 }

// CLTS returns what the real CR0 becomes by a guest's CLTS that causes no VM exit
// (SDM Vol. 3C 26.3): TS stays if the host owns it.
func (m CRMask) CLTS(real uint64) uint64 { return real &^ (asm.CR0TS &^ m.Mask) }

// Set returns the mask with a shadow that makes host-owned bits read as in value:
// what to write after a MOV to the register that has caused a VM exit and is
// granted.
func (m CRMask) Set(value uint64) CRMask {
	m.Shadow = m.Shadow&^m.Mask | value&m.Mask
	return m
}

// String prints both.
func (m CRMask) String() string { return fmt.Sprintf("mask 0x%x, shadow 0x%x", m.Mask, m.Shadow) }
