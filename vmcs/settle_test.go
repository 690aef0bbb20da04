package vmcs_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/govtx/vtx/internal/require"
	"github.com/govtx/vtx/vmcs"
	"pgregory.net/rapid"
)

func ExampleSettle() {
	c, err := vmcs.Model("core_i7_3770")
	if err != nil {
		fmt.Println(err)
		return
	}
	// HLT shall exit; time-stamp counter scaling would be welcome; accesses to
	// CR3 must not exit.
	primary, err := vmcs.Settle(c,
		vmcs.PrimaryHLTExiting|vmcs.PrimaryActivateSecondaryControls,
		0,
		vmcs.PrimaryCR3LoadExiting|vmcs.PrimaryCR3StoreExiting)
	fmt.Printf("%#x %v\n", uint32(primary), err)

	secondary, err := vmcs.Settle(c, vmcs.SecondaryEnableEPT, vmcs.SecondaryUseTSCScaling|vmcs.SecondaryEnableVPID, 0)
	fmt.Println(secondary, err)

	_, err = vmcs.Settle(c, vmcs.SecondaryEnableEPT|vmcs.SecondaryEnablePML, 0, 0)
	fmt.Println(err)
	// Output:
	// 0x840061f2 <nil>
	// Enable EPT, Enable VPID <nil>
	// vmcs: secondary processor-based VM-execution controls: wanted, but this processor does not have: Enable PML
}

func TestSettle(t *testing.T) {
	c := &vmcs.Capabilities{}
	c.Controls[vmcs.GroupPrimary] = vmcs.Allowed{
		Must1: uint64(vmcs.PrimaryDefault1),
		May1:  uint64(vmcs.PrimaryDefault1 | vmcs.PrimaryHLTExiting | vmcs.PrimaryUseMSRBitmaps),
	}
	got, err := vmcs.Settle(c, vmcs.PrimaryHLTExiting, vmcs.PrimaryUseMSRBitmaps|vmcs.PrimaryPAUSEExiting, 0)
	require.NoError(t, err)
	require.Equal(t, vmcs.PrimaryDefault1|vmcs.PrimaryHLTExiting|vmcs.PrimaryUseMSRBitmaps, got)

	got, err = vmcs.Settle(c, 0, vmcs.PrimaryUseMSRBitmaps, vmcs.PrimaryUseMSRBitmaps)
	require.NoError(t, err)
	require.Equal(t, vmcs.PrimaryDefault1, got, "forbidden wins over optional")

	got, err = vmcs.Settle(c, vmcs.PrimaryPAUSEExiting|vmcs.PrimaryMonitorTrapFlag|vmcs.PrimaryHLTExiting, 0,
		vmcs.PrimaryCR3LoadExiting|vmcs.PrimaryHLTExiting)
	require.Zero(t, got)
	var e *vmcs.SettleError
	require.ErrorAs(t, err, &e)
	require.Equal(t, &vmcs.SettleError{
		Group:         vmcs.GroupPrimary,
		Lacking:       uint64(vmcs.PrimaryPAUSEExiting | vmcs.PrimaryMonitorTrapFlag),
		Forced:        uint64(vmcs.PrimaryCR3LoadExiting),
		Contradictory: uint64(vmcs.PrimaryHLTExiting),
	}, e)
	require.Equal(t, "vmcs: primary processor-based VM-execution controls: wanted, but this processor does not have: "+
		"Monitor trap flag, PAUSE exiting; forbidden, but this processor wants them to be 1: CR3-load exiting; "+
		"both wanted and forbidden: HLT exiting", err.Error())
	require.ErrorIs(t, err, errors.ErrUnsupported)

	_, err = vmcs.Settle(c, vmcs.PrimaryHLTExiting, 0, vmcs.PrimaryHLTExiting)
	require.NotErrorIs(t, err, errors.ErrUnsupported, "the caller contradicts itself")
	_, err = vmcs.Settle(c, vmcs.TertiaryEnableHLAT, 0, 0)
	require.ErrorContains(t, err, "it has none of the tertiary processor-based VM-execution controls")
	v, err := vmcs.Settle(c, 0, vmcs.TertiaryEnableHLAT, 0)
	require.NoError(t, err)
	require.Zero(t, v)
	_, err = c.SettleBits(vmcs.NumControlGroups, 1, 0, 0)
	require.Error(t, err)
}

// settles: the result is one the processor allows, has all wanted bits, no
// forbidden one and no bit nobody asked for; and there is an error exactly if no
// value is possible.
func settles(t *rapid.T) {
	g := drawGroup(t)
	var c vmcs.Capabilities
	may := drawControls(t, g, "may")
	a := vmcs.Allowed{May1: may, Must1: may & drawControls(t, g, "must")}
	c.Controls[g] = a
	wanted, optional, forbidden := drawControls(t, g, "wanted"), drawControls(t, g, "optional"), drawControls(t, g, "forbidden")
	if rapid.Bool().Draw(t, "possible") {
		wanted, forbidden = wanted&may, forbidden&^a.Must1
		forbidden &^= wanted
	}
	possible := a.Allows((a.Must1|wanted)&^forbidden) && wanted&forbidden == 0 && a.Must1&forbidden == 0

	got, err := c.SettleBits(g, wanted, optional, forbidden)
	require.Equal(t, possible, err == nil)
	if err != nil {
		require.Zero(t, got)
		var e *vmcs.SettleError
		require.ErrorAs(t, err, &e)
		require.Equal(t, wanted&^a.May1, e.Lacking)
		require.Equal(t, forbidden&a.Must1, e.Forced)
		require.Equal(t, wanted&forbidden, e.Contradictory)
		for b := range g.Bits() {
			if (e.Lacking|e.Forced|e.Contradictory)>>b.Bit&1 != 0 {
				require.Contains(t, err.Error(), b.SDMName)
			}
		}
		return
	}
	require.True(t, a.Allows(got))
	require.Equal(t, wanted, got&wanted)
	require.Zero(t, got&forbidden)
	require.Zero(t, got&^(a.Must1|wanted|optional))
	require.Equal(t, optional&a.May1&^forbidden, got&optional&^forbidden, "an optional bit that the processor has is on")
}

func TestSettleProperties(t *testing.T) { rapid.Check(t, settles) }

func FuzzSettle(f *testing.F) { f.Fuzz(rapid.MakeFuzz(settles)) }

func TestSettleDoesNotAllocate(t *testing.T) {
	c, err := vmcs.Model("core_i7_3770")
	require.NoError(t, err)
	require.Zero(t, testing.AllocsPerRun(100, func() {
		if _, err := vmcs.Settle(c, vmcs.SecondaryEnableEPT, vmcs.SecondaryEnableVPID, 0); err != nil {
			t.Fatal(err)
		}
	}))
}

func BenchmarkSettle(b *testing.B) {
	c, err := vmcs.Model("core_i7_3770")
	require.NoError(b, err)
	b.ReportAllocs()
	for b.Loop() {
		_, _ = vmcs.Settle(c, vmcs.SecondaryEnableEPT, vmcs.SecondaryEnableVPID, 0)
	}
}
