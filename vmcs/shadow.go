package vmcs

// A Shadow is a VMCS in memory that answers as the current VMCS of a processor
// does: fields that the processor lacks are refused, so are writes to VM-exit
// information unless IA32_VMX_MISC[29] is 1, and a refusal leaves its number in
// the VM-instruction error field (SDM Vol. 3C 31.3, VMREAD and VMWRITE). Every
// field that the processor has is there, 0 at first.
type Shadow struct {
	caps  *Capabilities
	image Image
}

// NewShadow returns the VMCS of a processor with these capabilities.
func NewShadow(c *Capabilities) *Shadow {
	s := &Shadow{caps: c}
	s.image.Fill(c)
	return s
}

// Image returns the values behind the shadow. What is written to it passes by
// all checks.
func (s *Shadow) Image() *Image { return &s.image }

// Read is VMREAD: the error is an InstructionError.
func (s *Shadow) Read(f Field) (uint64, error) {
	v, ok := s.image.Get(f)
	if !ok {
		return 0, s.fail("read", f, UnsupportedComponent)
	}
	return v, nil
}

// Write is VMWRITE: the error is an InstructionError.
func (s *Shadow) Write(f Field, v uint64) error {
	if !s.image.Has(f) {
		return s.fail("write", f, UnsupportedComponent)
	}
	if f.ReadOnly() && !s.caps.Misc.WritesExitInformation() {
		return s.fail("write", f, ReadOnlyComponent)
	}
	return s.image.Write(f, v)
}

func (s *Shadow) fail(op string, f Field, e InstructionError) error {
	s.image.Set(VMInstructionErrorNumber, uint64(e))
	return fieldError(op, f, e)
}
