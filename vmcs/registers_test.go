package vmcs_test

import (
	"testing"

	"github.com/govtx/vtx/asm"
	"github.com/govtx/vtx/internal/require"
	"github.com/govtx/vtx/vmcs"
)

// The bits of registers that package asm names are where dumps name them.
func TestRegisterBits(t *testing.T) {
	for _, c := range []struct {
		field vmcs.Field
		bit   uint64
		name  string
	}{
		{vmcs.GuestCR0, asm.CR0PE, "PE"},
		{vmcs.GuestCR0, asm.CR0MP, "MP"},
		{vmcs.GuestCR0, asm.CR0EM, "EM"},
		{vmcs.GuestCR0, asm.CR0TS, "TS"},
		{vmcs.GuestCR0, asm.CR0ET, "ET"},
		{vmcs.GuestCR0, asm.CR0NE, "NE"},
		{vmcs.GuestCR0, asm.CR0WP, "WP"},
		{vmcs.GuestCR0, asm.CR0AM, "AM"},
		{vmcs.GuestCR0, asm.CR0NW, "NW"},
		{vmcs.GuestCR0, asm.CR0CD, "CD"},
		{vmcs.GuestCR0, asm.CR0PG, "PG"},
		{vmcs.GuestCR4, asm.CR4VME, "VME"},
		{vmcs.GuestCR4, asm.CR4PVI, "PVI"},
		{vmcs.GuestCR4, asm.CR4TSD, "TSD"},
		{vmcs.GuestCR4, asm.CR4DE, "DE"},
		{vmcs.GuestCR4, asm.CR4PSE, "PSE"},
		{vmcs.GuestCR4, asm.CR4PAE, "PAE"},
		{vmcs.GuestCR4, asm.CR4MCE, "MCE"},
		{vmcs.GuestCR4, asm.CR4PGE, "PGE"},
		{vmcs.GuestCR4, asm.CR4PCE, "PCE"},
		{vmcs.GuestCR4, asm.CR4OSFXSR, "OSFXSR"},
		{vmcs.GuestCR4, asm.CR4OSXMMEXCPT, "OSXMMEXCPT"},
		{vmcs.GuestCR4, asm.CR4UMIP, "UMIP"},
		{vmcs.GuestCR4, asm.CR4LA57, "LA57"},
		{vmcs.GuestCR4, asm.CR4VMXE, "VMXE"},
		{vmcs.GuestCR4, asm.CR4SMXE, "SMXE"},
		{vmcs.GuestCR4, asm.CR4FSGSBASE, "FSGSBASE"},
		{vmcs.GuestCR4, asm.CR4PCIDE, "PCIDE"},
		{vmcs.GuestCR4, asm.CR4OSXSAVE, "OSXSAVE"},
		{vmcs.GuestCR4, asm.CR4KL, "KL"},
		{vmcs.GuestCR4, asm.CR4SMEP, "SMEP"},
		{vmcs.GuestCR4, asm.CR4SMAP, "SMAP"},
		{vmcs.GuestCR4, asm.CR4PKE, "PKE"},
		{vmcs.GuestCR4, asm.CR4CET, "CET"},
		{vmcs.GuestCR4, asm.CR4PKS, "PKS"},
		{vmcs.GuestCR4, asm.CR4UINTR, "UINTR"},
		{vmcs.GuestCR4, asm.CR4FRED, "FRED"},
		{vmcs.GuestEFER, asm.EFERSCE, "SCE"},
		{vmcs.GuestEFER, asm.EFERLME, "LME"},
		{vmcs.GuestEFER, asm.EFERLMA, "LMA"},
		{vmcs.GuestEFER, asm.EFERNXE, "NXE"},
		{vmcs.GuestRFLAGS, asm.FlagCF, "CF"},
		{vmcs.GuestRFLAGS, asm.FlagPF, "PF"},
		{vmcs.GuestRFLAGS, asm.FlagAF, "AF"},
		{vmcs.GuestRFLAGS, asm.FlagZF, "ZF"},
		{vmcs.GuestRFLAGS, asm.FlagSF, "SF"},
		{vmcs.GuestRFLAGS, asm.FlagTF, "TF"},
		{vmcs.GuestRFLAGS, asm.FlagIF, "IF"},
		{vmcs.GuestRFLAGS, asm.FlagDF, "DF"},
		{vmcs.GuestRFLAGS, asm.FlagOF, "OF"},
		{vmcs.GuestRFLAGS, asm.FlagNT, "NT"},
		{vmcs.GuestRFLAGS, asm.FlagRF, "RF"},
		{vmcs.GuestRFLAGS, asm.FlagVM, "VM"},
		{vmcs.GuestRFLAGS, asm.FlagAC, "AC"},
		{vmcs.GuestRFLAGS, asm.FlagVIF, "VIF"},
		{vmcs.GuestRFLAGS, asm.FlagVIP, "VIP"},
		{vmcs.GuestRFLAGS, asm.FlagID, "ID"},
	} {
		if c.field == vmcs.GuestRFLAGS {
			c.bit |= 1 << 1 // always 1
		}
		require.Equal(t, c.name, vmcs.Meaning(new(vmcs.Image), c.field, c.bit))
	}
}
