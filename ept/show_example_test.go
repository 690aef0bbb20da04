package ept_test

import (
	"fmt"
	"log"
	"os"
	"strings"

	"github.com/govtx/vtx/ept"
)

// A description of two views, as "vtx ept" reads it, becomes tables.
func buildExample() []ept.Named {
	file, err := ept.ParseMap(strings.NewReader(`
		view VTL1
		map 0 512G rwx WB
		replace 0xfee00000 4K rw- UC
		view VTL0 of VTL1
		protect 1G 2M r--
		unmap 0x1234567000 4K
	`))
	if err != nil {
		log.Fatal(err)
	}
	pages, err := ept.NewArena(make([]byte, 16<<12), 0x1000)
	if err != nil {
		log.Fatal(err)
	}
	_, views, err := file.Build(pages, nil)
	if err != nil {
		log.Fatal(err)
	}
	return views
}

func ExampleMappings() {
	for m, err := range ept.Mappings(buildExample()[1].Source) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(m, "by pages of", m.Sizes)
	}
	// Output:
	// 0x0-0x3fffffff: RWX WB by pages of 1G
	// 0x40000000-0x401fffff: R-- WB by pages of 2M
	// 0x40200000-0xfedfffff: RWX WB by pages of 2M, 1G
	// 0xfee00000-0xfee00fff: RW- UC by pages of 4K
	// 0xfee01000-0x1234566fff: RWX WB by pages of 4K, 2M, 1G
	// 0x1234568000-0x7fffffffff: RWX WB by pages of 4K, 2M, 1G
}

func ExampleCompare() {
	views := buildExample()
	for d, err := range ept.Compare(views[0].Source, views[1].Source) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(d)
	}
	// Output:
	// 0x40000000-0x401fffff (2M): RWX WB | R-- WB
	// 0x1234567000-0x1234567fff (4K): RWX WB | not mapped
}

func ExampleDrawing() {
	d := ept.Drawing{Views: buildExample()}
	if err := d.WriteText(os.Stdout); err != nil {
		log.Fatal(err)
	}
	// Output:
	// guest-physical               size  VTL1              VTL0
	// 0x0000000000-0x003fffffff      1G  ███████   RWX WB  ███████   RWX WB
	// 0x0040000000-0x00401fffff      2M  ████      RWX WB  ░░░░      R-- WB  ≠
	// 0x0040200000-0x00fedfffff   3052M  ███████   RWX WB  ███████   RWX WB
	// 0x00fee00000-0x00fee00fff      4K  ▓         RW- UC  ▓         RW- UC
	// 0x00fee01000-0x1234566fff   68.8G  █████████ RWX WB  █████████ RWX WB
	// 0x1234567000-0x1234567fff      4K  █         RWX WB  ·         hole    ≠
	// 0x1234568000-0x7fffffffff  439.2G  █████████ RWX WB  █████████ RWX WB
	//
	// legend:  · not mapped  █ RWX  ▓ RW-  ░ R--
	// Each glyph more is 8 times the size, from 4K on.
	// Host-physical addresses are the same unless told.
	// ≠ is where the views differ.
}
