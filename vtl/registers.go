package vtl

import (
	"github.com/govtx/vtx/hypercall"
)

// vsmRegisters and architectural are ranges of register names.
const (
	firstArchitectural = 0x0002_0000 // general, floating-point, control, debug, segment and
	lastArchitectural  = 0x0008_ffff // table registers, MSRs
	firstVSM           = 0x000d_0000
	lastVSM            = 0x000d_ffff
)

func isArchitectural(name hypercall.Register) bool {
	return firstArchitectural <= name && name <= lastArchitectural
}

// target checks the header of HvCallGetVpRegisters and HvCallSetVpRegisters.
func (p *Partition) target(vp uint32, in *hypercall.VpRegistersInput) (index uint32, level VTL, r Refusal) {
	v := p.processor(vp)
	if v == nil {
		return 0, 0, noSuchCaller
	}
	level = in.TargetVTL.Of(v.active)
	index, ok := p.index(vp, in.VPIndex)
	switch {
	case !p.isSelf(in.PartitionID):
		return 0, 0, foreignDenied
	case level > v.active:
		return 0, 0, registerAbove
	case !ok:
		return 0, 0, noSuchVP
	case !in.ReservedZero() || in.TargetVTL.Reserved() != 0:
		return 0, 0, reservedInput
	}
	return index, level, refusedNot
}

// owned checks what concerns both ways of access to a register.
func (p *Partition) owned(vp, index uint32, level VTL, name hypercall.Register) Refusal {
	active, t := p.processors[vp].active, &p.processors[index]
	switch {
	case isArchitectural(name):
		if level == active && p.is(ownRegistersDenied) {
			return registerOwn
		}
	case name == hypercall.RegisterPendingEvent0 || name == hypercall.RegisterPendingEvent1:
		if level == active {
			return pendingNotLower
		}
	case name == hypercall.RegisterVsmVina || name == hypercall.RegisterVsmPartitionConfig:
		if level == 0 {
			return registerVTL0
		}
		if name == hypercall.RegisterVsmPartitionConfig {
			if p.enabled&bit(level) == 0 {
				return registerLevelOff
			}
			return refusedNot
		}
	case isGuard(name):
		if level == 0 {
			return interceptVTL0
		}
		if !t.has(level) {
			return interceptOff
		}
		return refusedNot
	case isSecureConfig(name):
		if VTL(name-hypercall.RegisterVsmVpSecureConfigVtl0) >= level {
			return secureNotLower
		}
	case name == hypercall.RegisterVsmCapabilities || name == hypercall.RegisterVsmPartitionStatus ||
		name == hypercall.RegisterVsmVpStatus || name == hypercall.RegisterVsmCodePageOffsets || name == hypercall.RegisterVpIndex:
		return refusedNot // the same for all levels
	}
	if !t.has(level) {
		return registerLevelOff
	}
	return refusedNot
}

func isGuard(name hypercall.Register) bool {
	return hypercall.RegisterCRInterceptControl <= name && name <= hypercall.RegisterCRInterceptIa32MiscEnableMask
}

func isSecureConfig(name hypercall.Register) bool {
	return hypercall.RegisterVsmVpSecureConfigVtl0 <= name && name <= hypercall.RegisterVsmVpSecureConfigVtl14
}

// GetRegister is an element of HvCallGetVpRegisters by the active level of processor vp
// (rules 63 to 72, 82).
func (p *Partition) GetRegister(vp uint32, in *hypercall.VpRegistersInput, name hypercall.Register) (Value, hypercall.Status) {
	index, level, r := p.target(vp, in)
	if r == refusedNot {
		r = p.owned(vp, index, level, name)
	}
	if r != refusedNot {
		return Value{}, p.refuse(r)
	}
	p.why = refusedNot
	word := uint64(0)
	switch name {
	case hypercall.RegisterVsmCapabilities:
		if p.config.MaximumVTL > 0 {
			word = uint64(p.config.Capabilities)
		}
	case hypercall.RegisterVsmPartitionStatus:
		if p.config.MaximumVTL > 0 {
			word = uint64(p.Status())
		}
	case hypercall.RegisterVsmVpStatus:
		if p.config.MaximumVTL > 0 {
			word = uint64(p.VPStatus(index))
		}
	case hypercall.RegisterVsmCodePageOffsets:
		if p.config.MaximumVTL > 0 {
			word = uint64(p.config.CodePageOffsets)
		}
	case hypercall.RegisterVpIndex:
		word = uint64(index)
	case hypercall.RegisterVsmPartitionConfig:
		word = uint64(p.domains[level].config)
	default:
		c := p.context(index, level)
		switch {
		case name == hypercall.RegisterVsmVina:
			word = uint64(c.vina)
		case name == hypercall.RegisterVpAssistPage:
			word = c.assist
		case name == hypercall.RegisterCR8:
			word = uint64(c.tpr >> 4)
		case name == hypercall.RegisterPendingEvent0:
			return Value{Low: c.event.word, High: c.event.parameter}, hypercall.StatusSuccess
		case name == hypercall.RegisterPendingEvent1:
			return Value{}, hypercall.StatusSuccess
		case isSecureConfig(name):
			n := bit(VTL(name - hypercall.RegisterVsmVpSecureConfigVtl0))
			if c.mbec&n != 0 {
				word |= uint64(hypercall.VsmVpSecureConfigMbecEnabled)
			}
			if c.locked&n != 0 {
				word |= uint64(hypercall.VsmVpSecureConfigTlbLocked)
			}
		case isGuard(name):
			word = *c.guardWord(name)
		case firstVSM <= name && name <= lastVSM:
			return Value{}, p.refuse(registerUnknown)
		default:
			value, s := p.registers.Register(index, level, name)
			if s != hypercall.StatusSuccess {
				p.why = registersRefuse
			}
			return value, s
		}
	}
	return Value{Low: word}, hypercall.StatusSuccess
}

// guardWord returns where an intercept register is.
func (c *context) guardWord(name hypercall.Register) *uint64 {
	switch name {
	case hypercall.RegisterCRInterceptCR0Mask:
		return &c.maskCR0
	case hypercall.RegisterCRInterceptCR4Mask:
		return &c.maskCR4
	case hypercall.RegisterCRInterceptIa32MiscEnableMask:
		return &c.maskMisc
	}
	return (*uint64)(&c.guard)
}

// SetRegister is an element of HvCallSetVpRegisters by the active level of processor vp
// (rules 63 to 84). What a level above the caller's intercepts on the target processor is
// refused with ACCESS_DENIED, also for the caller's own level (rules 65 and 107).
func (p *Partition) SetRegister(vp uint32, in *hypercall.VpRegistersInput, name hypercall.Register, value Value, e *Effects) hypercall.Status {
	index, level, r := p.target(vp, in)
	if r == refusedNot {
		r = p.owned(vp, index, level, name)
	}
	if r != refusedNot {
		return p.refuse(r)
	}
	p.why = refusedNot
	word := value.Low
	switch name {
	case hypercall.RegisterVsmCapabilities, hypercall.RegisterVsmPartitionStatus, hypercall.RegisterVsmVpStatus,
		hypercall.RegisterVsmCodePageOffsets, hypercall.RegisterVpIndex:
		return p.refuse(registerReadOnly)
	case hypercall.RegisterVsmPartitionConfig:
		if value.High != 0 {
			return p.refuse(registerHigh)
		}
		return p.setConfig(level, hypercall.VsmPartitionConfig(word), e)
	case hypercall.RegisterPendingEvent0:
		return p.setEvent(vp, index, level, value, e)
	case hypercall.RegisterPendingEvent1:
		return p.refuse(registerUnknown)
	}
	c := p.context(index, level)
	ours := isGuard(name) || isSecureConfig(name) || name == hypercall.RegisterVsmVina || name == hypercall.RegisterVpAssistPage ||
		name == hypercall.RegisterCR8 || name == hypercall.RegisterCR0
	if ours && value.High != 0 {
		return p.refuse(registerHigh)
	}
	if isArchitectural(name) {
		if r, s := p.guarded(&p.processors[vp], index, level, name, word); r != refusedNot {
			p.why = r
			return s
		}
	}
	switch {
	case name == hypercall.RegisterVsmVina:
		vina := hypercall.VsmVina(word)
		if vina.Reserved() != 0 {
			return p.refuse(vinaReserved)
		}
		c.vina = vina
		p.changed(vp, index, e)
	case name == hypercall.RegisterVpAssistPage:
		if word>>p.config.PhysicalBits != 0 {
			return p.refuse(assistValue)
		}
		c.assist = word
		e.add(Effect{Kind: EffectAssist, VP: index, Level: level, Value: word})
	case name == hypercall.RegisterCR8:
		if word > 0xf {
			return p.refuse(valueCR8)
		}
		c.tpr = uint8(word << 4)
		p.changed(vp, index, e)
	case isSecureConfig(name):
		return p.setSecureConfig(index, level, VTL(name-hypercall.RegisterVsmVpSecureConfigVtl0), hypercall.VsmVpSecureConfig(word), e)
	case isGuard(name):
		if name == hypercall.RegisterCRInterceptControl && hypercall.CrInterceptControl(word)&^p.guards() != 0 {
			return p.refuse(interceptBits)
		}
		*c.guardWord(name) = word
		e.add(Effect{Kind: EffectGuard, VP: index, Level: level})
	case firstVSM <= name && name <= lastVSM:
		return p.refuse(registerUnknown)
	case name == hypercall.RegisterCR0 && !validCR0(word):
		return p.refuse(valueCR0)
	case name == hypercall.RegisterCR0 && level > 0 && word&cr0PE == 0:
		return p.refuse(realMode)
	default:
		s := p.registers.SetRegister(index, level, name, value)
		if s != hypercall.StatusSuccess {
			p.why = registersRefuse
			return s
		}
		if name == hypercall.RegisterRFLAGS {
			p.changed(vp, index, e)
		}
	}
	return hypercall.StatusSuccess
}

// guards returns the intercepts that can be set.
func (p *Partition) guards() hypercall.CrInterceptControl {
	if !p.is(interceptsExtended) {
		return hypercall.CrInterceptTLFS
	}
	const reads = hypercall.CrInterceptIA32MiscEnableRead | hypercall.CrInterceptMsrLstarRead | hypercall.CrInterceptMsrStarRead |
		hypercall.CrInterceptMsrCstarRead | hypercall.CrInterceptApicBaseMsrRead | hypercall.CrInterceptMsrEferRead
	return ^hypercall.CrInterceptReserved &^ reads &^ hypercall.CrInterceptMsrSgxLaunchControlWrite
}

// changed has a processor look anew at what interrupts wait.
func (p *Partition) changed(vp, index uint32, e *Effects) {
	v := &p.processors[index]
	switch {
	case v.pending == 0:
	case vp == index:
		p.settle(index, v, e)
	default:
		e.add(Effect{Kind: EffectKick, VP: index})
	}
}

// setConfig is a write to VsmPartitionConfig of a level (rules 72 to 81).
func (p *Partition) setConfig(level VTL, value hypercall.VsmPartitionConfig, e *Effects) hypercall.Status {
	const maskBits = hypercall.VsmPartitionConfig(FullAccess) << 1
	d := &p.domains[level]
	on, want := d.config.EnableVtlProtection(), value.EnableVtlProtection()
	offered := hypercall.VsmPartitionConfigEnableVtlProtection | maskBits | hypercall.VsmPartitionConfigZeroMemoryOnReset |
		hypercall.VsmPartitionConfigInterceptVpStartup
	if p.config.Capabilities.DenyLowerVtlStartup() {
		offered |= hypercall.VsmPartitionConfigDenyLowerVtlStartup
	}
	if value&^offered != 0 {
		return p.refuse(configBits)
	}
	if on {
		if p.is(writeOnceKept) {
			value = value&^maskBits | d.config&maskBits | hypercall.VsmPartitionConfigEnableVtlProtection
		}
		if !value.EnableVtlProtection() {
			return p.refuse(configOnce)
		}
		if (value^d.config)&maskBits != 0 {
			return p.refuse(configMaskOnce)
		}
		d.config = value
		return hypercall.StatusSuccess
	}
	a, ok := p.accessOf(value.DefaultVtlProtectionMask(), level)
	if !ok && (want || !p.is(maskNeedsEnable)) || p.is(defaultMaskReadWrite) && a&(Read|Write) != Read|Write {
		return p.refuse(configMask)
	}
	d.config = value
	if want || !p.is(maskNeedsEnable) && a != FullAccess {
		d.config |= hypercall.VsmPartitionConfigEnableVtlProtection
		p.protecting |= bit(level)
		for t := VTL(0); t < level; t++ {
			p.mask(level, t).fill(a)
			if p.enabled&bit(t) != 0 && a != FullAccess {
				e.add(Effect{Kind: EffectView, Level: t})
			}
		}
	}
	return hypercall.StatusSuccess
}

// accessOf returns the rights that map flags stand for in a mask of owner; false if they
// stand for none (rules 88, 89, 95 to 97, 104).
func (p *Partition) accessOf(f hypercall.MapFlags, owner VTL) (Access, bool) {
	if f&^hypercall.MapAccess != 0 {
		return 0, false
	}
	a := Access(f)
	if a&Read == 0 && a != NoAccess {
		return 0, false
	}
	kernel, user := a&KernelExecute != 0, a&UserExecute != 0
	if p.mbec&bit(owner) == 0 {
		if kernel != user && p.is(userExecuteChecked) {
			return 0, false
		}
		return p.oneExecute(a), true
	}
	return a, !kernel || user
}

// setSecureConfig is a write to VsmVpSecureConfig of an owner for a lower level of a
// processor (rules 82 to 85).
func (p *Partition) setSecureConfig(index uint32, owner, level VTL, value hypercall.VsmVpSecureConfig, e *Effects) hypercall.Status {
	const known = hypercall.VsmVpSecureConfigMbecEnabled | hypercall.VsmVpSecureConfigTlbLocked
	allowed, want := p.mbec&bit(owner) != 0, value.MbecEnabled()
	switch {
	case value&^known != 0:
		return p.refuse(secureBits)
	case p.is(mbecAsPartition) && want != allowed:
		return p.refuse(secureMBECPartition)
	case want && !allowed:
		return p.refuse(secureMBEC)
	}
	v, c := &p.processors[index], p.context(index, owner)
	before := p.mbecLevels(index)
	if c.mbec &^= bit(level); want {
		c.mbec |= bit(level)
	}
	p.mbecChanged(index, before, e)
	if value.TlbLocked() {
		p.lock(v, c, owner, level)
	} else if c.locked&bit(level) != 0 {
		p.unlock(index, v, owner, bit(level), e)
	}
	return hypercall.StatusSuccess
}

// lock takes a TLB lock of owner on a lower level.
func (p *Partition) lock(v *processor, c *context, owner, level VTL) {
	c.locked |= bit(level)
	v.locking |= bit(owner)
}

// An event is an exception that waits to be injected: the two halves of
// HvRegisterPendingEvent0. 0 is none.
type event struct{ word, parameter uint64 }

func (v event) vector() uint8 { return uint8(v.word >> 16) }

func (v event) code() (code uint32, ok bool) { return uint32(v.word >> 32), v.word>>8&1 != 0 }

// Exceptions that can be injected: all that processors of both vendors have, and those of
// them that can have an error code (SDM Vol. 3A table 6-1; rule 69).
const (
	injectable = 1<<0 | 1<<1 | 1<<3 | 1<<4 | 1<<5 | 1<<6 | 1<<7 | 1<<8 | 1<<10 | 1<<11 | 1<<12 | 1<<13 | 1<<14 |
		1<<16 | 1<<17 | 1<<18 | 1<<19 | 1<<21
	withCode     = 1<<8 | 1<<10 | 1<<11 | 1<<12 | 1<<13 | 1<<14 | 1<<17 | 1<<21
	contributory = 1<<0 | 1<<10 | 1<<11 | 1<<12 | 1<<13 | 1<<21
	pageFault    = 14
)

// setEvent is a write to PendingEvent0 of a level of a processor (rules 69, 108).
func (p *Partition) setEvent(vp, index uint32, level VTL, value Value, e *Effects) hypercall.Status {
	v, c := &p.processors[index], p.context(index, level)
	x, ok := value.Exception()
	if !x.Header.EventPending() {
		c.event = event{}
		v.events &^= bit(level)
		return hypercall.StatusSuccess
	}
	if !ok || !x.ReservedZero() || x.Vector > 31 || injectable>>x.Vector&1 == 0 ||
		x.Flags&hypercall.PendingExceptionFlagsDeliverErrorCode != 0 && withCode>>x.Vector&1 == 0 {
		return p.refuse(pendingEvent)
	}
	c.event = event{value.Low, value.High}
	v.events |= bit(level)
	e.add(Effect{Kind: EffectWake, VP: index, Level: level})
	if v.active == level {
		p.inject(index, v, level, e)
		if index != vp {
			e.add(Effect{Kind: EffectKick, VP: index})
		}
	}
	return hypercall.StatusSuccess
}

// DoubleFault reports whether an exception that is raised while another one is being
// delivered makes a double fault (SDM Vol. 3A table 6-5; rule 112).
func DoubleFault(first, second uint8) bool {
	if first > 31 || second > 31 {
		return false
	}
	c2 := contributory>>second&1 != 0
	return contributory>>first&1 != 0 && c2 || first == pageFault && (second == pageFault || c2)
}
