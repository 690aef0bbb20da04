package vtl_test

import (
	"fmt"

	"github.com/govtx/vtx/hypercall"
	"github.com/govtx/vtx/vtl"
)

// VTL0 sets up VTL1, which then hides a page from it.
func Example() {
	p, err := vtl.New(vtl.Config{Processors: 1, MaximumVTL: 1, RAM: []vtl.Range{{Page: 0x100, Pages: 0x1000}}})
	if err != nil {
		panic(err)
	}
	var e vtl.Effects
	context := vtl.Context{RIP: 0x100000, RSP: 0x110000, RFLAGS: 2, CR0: 0x80000011, CR3: 0x120000, CR4: 0x20, EFER: 0x500}
	s := p.EnablePartitionVTL(0, &hypercall.EnablePartitionVtlInput{PartitionID: hypercall.PartitionSelf, TargetVTL: 1}, &e)
	fmt.Println(s.String())
	s = p.EnableVPVTL(0, &hypercall.EnableVpVtlInput{PartitionID: hypercall.PartitionSelf, VPIndex: hypercall.VPSelf, TargetVTL: 1, Context: context}, &e)
	fmt.Println(s.String())
	p.Call(0, vtl.Trap{Word: hypercall.Input(hypercall.CodeVtlCall)}, &e)

	own := hypercall.VpRegistersInput{PartitionID: hypercall.PartitionSelf, VPIndex: hypercall.VPSelf}
	config := hypercall.VsmPartitionConfigEnableVtlProtection.WithDefaultVtlProtectionMask(hypercall.MapAccess)
	s = p.SetRegister(0, &own, hypercall.RegisterVsmPartitionConfig, vtl.Value{Low: uint64(config)}, &e)
	fmt.Println(s.String())
	hide := hypercall.ModifyVtlProtectionMaskInput{PartitionID: hypercall.PartitionSelf, TargetVTL: hypercall.TargetVTL(0)}
	n, s := p.ModifyProtection(0, &hide, []uint64{0x200, 0x201}, &e)
	fmt.Println(n, s.String())
	p.Return(0, vtl.Trap{Word: hypercall.Input(hypercall.CodeVtlReturn), Control: 1}, &e)
	fmt.Print(&e)

	e.Reset()
	fmt.Println(p.Access(0, 0x201, vtl.Reading, &e))
	fmt.Print(&e)
	// Output:
	// HV_STATUS_SUCCESS
	// HV_STATUS_SUCCESS
	// HV_STATUS_SUCCESS
	// 2 HV_STATUS_SUCCESS
	// view VTL1
	// context VP0 VTL1
	// switch VP0 VTL0 to VTL1 for call advance
	// protect VTL0 pages 0x200+0x2 ----
	// switch VP0 VTL1 to VTL0 advance
	// intercepted
	// intercept VP0 VTL1 from VTL0
	// switch VP0 VTL0 to VTL1 for interrupt
}

// Why tells more than a status.
func ExamplePartition_Why() {
	p, err := vtl.New(vtl.Config{Processors: 1, MaximumVTL: 1})
	if err != nil {
		panic(err)
	}
	var e vtl.Effects
	s := p.EnablePartitionVTL(0, &hypercall.EnablePartitionVtlInput{PartitionID: hypercall.PartitionSelf, TargetVTL: 2}, &e)
	fmt.Printf("%s: %v (rules %s)\n", s.String(), p.Why(), p.Why().Rules())
	// Output: HV_STATUS_INVALID_PARAMETER: the level is above the maximum of the partition (rules 9 15)
}

func ExamplePartition_Draw() {
	p, err := vtl.New(vtl.Config{Processors: 2, MaximumVTL: 3})
	if err != nil {
		panic(err)
	}
	var e vtl.Effects
	p.EnablePartitionVTL(0, &hypercall.EnablePartitionVtlInput{PartitionID: hypercall.PartitionSelf, TargetVTL: 2}, &e)
	fmt.Print(p.Draw())
	// Output:
	// VTL2  .     .     default RWKU, zero on reset
	// VTL0  RUN   stop
	//       VP0   VP1
}
