package vtl

import "github.com/govtx/vtx/hypercall"

// Types of package hypercall that stand in many places here.
type (
	// A Context is what a level or a processor begins with.
	Context = hypercall.InitialVpContext
	// A Value is the value of a register.
	Value = hypercall.RegisterValue
	// A Set is a set of processors.
	Set = hypercall.VpSet
)
