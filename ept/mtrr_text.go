package ept

import (
	"fmt"
	"strconv"
	"strings"
)

// maxRanges is how many ranges String prints. Real machines have less than 40.
const maxRanges = 256

// String lists the ranges of memory of one type, one a line.
func (m *MTRRs) String() string {
	var b strings.Builder
	n := 0
	for r := range m.All() {
		if n++; n > maxRanges {
			fmt.Fprintf(&b, "… (more than %d ranges: masks have gaps)\n", maxRanges)
			break
		}
		b.WriteString(r.String())
		b.WriteByte('\n')
	}
	return b.String()
}

// MarshalText returns the registers, one a line with its number, its value and its
// name, behind a line with MAXPHYADDR:
//
//	MAXPHYADDR 39
//	0xfe   0x508                IA32_MTRRCAP
func (m *MTRRs) MarshalText() ([]byte, error) {
	n := uint32(m.Cap & 0xff)
	if int(n) != len(m.Variable) {
		return nil, fmt.Errorf("ept: IA32_MTRRCAP %#x tells of %d variable ranges, and there are %d", m.Cap, n, len(m.Variable))
	}
	b := fmt.Appendf(nil, "MAXPHYADDR %d\n", m.PhysicalAddressBits)
	line := func(msr uint32, v uint64) { b = fmt.Appendf(b, "%#-6x %#-20x %s\n", msr, v, mtrrName(msr)) }
	line(MSRMTRRCap, m.Cap)
	line(MSRMTRRDefType, m.DefType)
	if m.Cap&mtrrCapFixed != 0 {
		for i, v := range m.Fixed {
			line(fixedMTRRs[i].msr, v)
		}
	}
	for i, p := range m.Variable {
		line(MSRMTRRPhysBase+2*uint32(i), p.Base)
		line(MSRMTRRPhysMask+2*uint32(i), p.Mask)
	}
	if m.Cap&mtrrCapSMRR != 0 {
		line(MSRSMRRPhysBase, m.SMRR.Base)
		line(MSRSMRRPhysMask, m.SMRR.Mask)
	}
	return b, nil
}

// UnmarshalText is [ParseMTRRs].
func (m *MTRRs) UnmarshalText(text []byte) error {
	p, err := ParseMTRRs(string(text))
	if err == nil {
		*m = *p
	}
	return err
}

// recordedMTRRs are MSRs by number, as they were written down.
type recordedMTRRs map[uint32]uint64

func (r recordedMTRRs) ReadMSR(msr uint32) (uint64, error) {
	if v, ok := r[msr]; ok {
		return v, nil
	}
	return 0, fmt.Errorf("there is no line for it")
}

// ParseMTRRs reads what MarshalText writes. Lines can be in any order; what follows the
// value in a line, empty lines and lines that begin with # are comments.
func ParseMTRRs(text string) (*MTRRs, error) {
	r := recordedMTRRs{}
	width := uint64(0)
	number := 0
	for line := range strings.Lines(text) {
		number++
		words := strings.Fields(line)
		if len(words) == 0 || strings.HasPrefix(words[0], "#") {
			continue
		}
		fail := func(why string) (*MTRRs, error) {
			return nil, fmt.Errorf("ept: line %d of MTRRs, %q: %s", number, strings.TrimSpace(line), why)
		}
		if len(words) < 2 {
			return fail("want the number of an MSR and its value")
		}
		v, err := strconv.ParseUint(words[1], 0, 64)
		if err != nil {
			return fail("the value is no number of 64 bits")
		}
		if strings.EqualFold(words[0], "MAXPHYADDR") {
			if width != 0 || v < 32 || v > 52 {
				return fail("MAXPHYADDR is 32 to 52, once")
			}
			width = v
			continue
		}
		msr, err := strconv.ParseUint(words[0], 0, 32)
		if err != nil || strings.HasPrefix(mtrrName(uint32(msr)), "MSR") {
			return fail("no MTRR has that number")
		}
		if _, again := r[uint32(msr)]; again {
			return fail("the MSR is there twice")
		}
		r[uint32(msr)] = v
	}
	if width == 0 {
		return nil, fmt.Errorf("ept: the line with MAXPHYADDR is missing")
	}
	m, err := ReadMTRRs(r, uint8(width))
	if err != nil {
		return nil, err
	}
	// Each MSR that is there must have been read: others are not this processor's.
	if back, err := m.MarshalText(); err != nil || strings.Count(string(back), "\n") != len(r)+1 {
		return nil, fmt.Errorf("ept: there are lines for MSRs that IA32_MTRRCAP %#x does not announce", m.Cap)
	}
	return m, nil
}
