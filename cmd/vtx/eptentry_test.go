package main

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestEPTEntry(t *testing.T) {
	for _, tc := range []struct {
		args   string
		out    []string
		not    string // must not be in the output
		errOut string
		status int
	}{
		{"0x2000b7", []string{
			"0x00000000002000b7  RWX WB 0x200000 large\n",
			"EPT PTE: maps 4 KiB at 0x200000, RWX, WB\n",
			"EPT PDE: maps 2 MiB at 0x200000, RWX, WB\n",
			"EPT PDPTE: misconfigured: address bits below the size of the page (29:12 for 1 GiB, 20:12 for 2 MiB) are reserved and must be 0 (SDM Vol. 3C 29.3.2, tables 29-3 and 29-5)\n",
			"EPT PML4E: misconfigured: ", "\nas EPT PTE:\n", "\nas EPT PDE:\nbits", "51:21   address                   0x1     0x200000 of the page\n",
		}, "as EPT PDPTE", "", 0},
		{"0x5107", []string{"EPT PML5E: references the table of EPT PML4Es at 0x5000, RWX\n", "\nas EPT PDE, EPT PDPTE:\n", "\nas EPT PML4E, EPT PML5E:\n"}, "misconfigured", "", 0},
		{"-level PDE 0x5107 -ad", []string{"EPT PDE: references the table of EPT PTEs at 0x5000, RWX, accessed\n", "8       accessed"}, "PML4E", "", 0},
		{"0x5002 -level=2", []string{"EPT PDE: misconfigured: an entry that allows writes (bit 1) must allow reads", "\nas EPT PDE:\n"}, "PTE:", "", 1},
		{"0x2", []string{"EPT PML5E: misconfigured"}, "as EPT", "", 1},
		{"RWX wb 0x200000 large -level 2", []string{"0x00000000002000b7"}, "", "", 0},
		{"0x1000 --x -level 1", []string{"EPT PTE: maps 4 KiB at 0x1000, --X, UC"}, "", "", 0},
		{"-level 1 --x", nil, "", "not defined", 2},
		{"0x4 -cap 0x40", []string{"misconfigured: an entry that allows fetches"}, "", "", 1},
		{"0x400 -mbec", []string{"maps 4 KiB at 0x0, ---U"}, "", "", 0},
		{"0x400", []string{"not present"}, "maps", "", 0},
		{"0x10000000001 -level 1 -width 40", []string{"misconfigured: address bits at and above MAXPHYADDR"}, "", "", 1},
		{"0x10000000001 -level 1", []string{"maps 4 KiB at 0x10000000000"}, "", "", 0},
		{"0x81 -level 3 -model bochs_corei7_sandy_bridge_2600k", []string{"EPT PDPTE: misconfigured: bit 7 must be 0 where the processor has no pages of that size"}, "", "", 1},
		{"0x81 -level 3 -model bochs_tigerlake", []string{"EPT PDPTE: maps 1 GiB"}, "", "", 0},
		{"0x1000000000001 -level 1 -model bochs_corei7_skylake_x", []string{"MAXPHYADDR"}, "", "", 1},
		{"0x8000000000000000 -ve -level 1", []string{"not present, EPT violations exit\n", "none: the entry is not present"}, "", "", 0},
		{"0x2000000000000001 -spp -level 1", []string{"sub-page writes", "the sub-page permission table can allow writes"}, "", "", 0},
		{"0x1000000000000001 -sss -level 1", []string{"supervisor shadow stack"}, "", "", 0},
		{"0x400000000000001 -pw -gpv -level 1", []string{"paging writes"}, "", "", 0},
		{"", nil, "", "want an ENTRY", 2},
		{"zebra", nil, "", "is no EPT entry", 2},
		{"0x1 -level 9", nil, "", "1 to 5", 2},
		{"0x1 -level 1 0x2", nil, "", "one ENTRY is enough", 2},
		{"0x1 -width 99", nil, "", "32 to 52", 2},
		{"0x1 -cap x", nil, "", "at most 64 bits", 2},
		{"0x1 -cap 1 -model bochs_tigerlake", nil, "", "exclude each other", 2},
		{"0x1 -model none", nil, "", "none", 2},
	} {
		t.Run(tc.args, func(t *testing.T) {
			out := checkOutcome(t, append([]string{"ept-entry"}, strings.Fields(tc.args)...), tc.out, tc.errOut, tc.status)
			if tc.not != "" {
				require.NotContains(t, out, tc.not)
			}
		})
	}
}
