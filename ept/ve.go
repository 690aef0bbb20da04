package ept

// Convertible reports whether an EPT violation can become a virtualization exception
// (#VE), by the control "EPT-violation #VE" and bit 63 of the entry at which the
// translation ended: one that is not present, or the one that maps the page
// (SDM Vol. 3C 26.5.7.1). Entries that reference tables have no say. See [VEState] for
// what else it takes.
func (m *Mode) Convertible(e Entry) bool { return m.ViolationVE && e&SuppressVE == 0 }

// A VEState is what, besides the tables, decides whether a convertible EPT violation
// becomes #VE or exits.
type VEState struct {
	ProtectedMode bool // CR0.PE is 1
	Delivering    bool // an event is being delivered through the IDT
	Asynchronous  bool // the access is by Intel PT or PEBS
	ShadowStack   bool // the violation leaves a shadow stack prematurely busy
	Busy          bool // the word at byte 4 of the virtualization-exception information area is not 0
}

// Raises reports whether a convertible EPT violation raises #VE. Otherwise it exits.
func (s VEState) Raises() bool {
	return s.ProtectedMode && !s.Delivering && !s.Asynchronous && !s.ShadowStack && !s.Busy
}
