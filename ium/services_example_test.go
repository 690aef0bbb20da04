package ium_test

import (
	"fmt"
	"log"

	"github.com/govtx/vtx/ium"
)

// A number says little without the build of Windows.
func ExampleNumbering() {
	services := ium.SecureServices()
	for _, build := range []ium.WindowsBuild{ium.Build17134, ium.Build22000} {
		name, err := services.NameOf(build, 12)
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(build, name)
	}
	diff, err := services.Differences(ium.Build17763First, ium.Build17763)
	if err != nil {
		log.Fatal(err)
	}
	for _, d := range diff {
		fmt.Println(d.Old, d.New, d.Name)
	}
	// Output:
	// 17134 SECURESERVICE_GET_TEB_ADDRESS
	// 22000 SECURESERVICE_DEBUG_PROCESS
	// 222 221 SECURESERVICE_PERFORM_RETPOLINE_RELOCATIONS
	// 223 222 SECURESERVICE_UPDATE_IMPORT_RELOCATIONS
	// 221 -1 SECURESERVICE_SET_RETPOLINE_PFN
}

// What a creator of a trustlet passes to the kernel, and what the kernel would say of it.
func ExampleCreateAttributes() {
	vm, err := ium.ParseGUID("{01234567-89ab-cdef-0123-456789abcdef}")
	if err != nil {
		log.Fatal(err)
	}
	c := ium.CreateAttributes{TrustletID: 2, Attributes: []ium.TrustletAttribute{ium.GUIDAttribute(ium.VMID, vm)}}
	b, err := c.AppendBinary(nil)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%x\n", b)

	b[12] = 1
	if err := c.UnmarshalBinary(b); err != nil {
		log.Fatal(err)
	}
	for _, wrong := range c.Check() {
		fmt.Println(wrong)
	}
	// Output:
	// 0200000000000000000213030000000067452301ab89efcd0123456789abcdef
	// ium: offset 0xc: InstanceNumber is 0x1: it must be 0: rule attribute-instance
}

// What NtQuerySystemInformation has given says about the machine.
func ExampleIsolatedUserMode() {
	var info ium.IsolatedUserMode
	if err := info.UnmarshalBinary([]byte{0x09, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}); err != nil {
		log.Fatal(err)
	}
	fmt.Println(info.Flags)
	says, _ := info.Meaning()
	for _, s := range says {
		fmt.Println("-", s)
	}
	// Output:
	// SecureKernelRunning, DebugEnabled
	// - the secure kernel runs: virtualization-based security is on
	// - the integrity of kernel code is not enforced
	// - the secure kernel can be debugged: nothing in VTL1 is secret from a debugger
}

// An image that claims to be LsaIso, but can be debugged.
func ExampleTrustlet_Compare() {
	p := &ium.Policy{Version: 1, ID: 1, Entries: []ium.Entry{
		{ID: ium.PolicyETW, Type: ium.EntryUInt32, Value: 1},
		{ID: ium.PolicyDebug, Type: ium.EntryUInt32, Value: uint64(ium.DebugAlways)},
		{ID: ium.PolicyCrashDump, Type: ium.EntryUInt32, Value: 1},
	}}
	t, ok := ium.FindTrustlet(p.ID)
	if !ok {
		log.Fatal("not known")
	}
	fmt.Println(t.Image, t.Compare(p))
	// Output: LsaIso.exe [expected: ImagePolicyIdDebug is 0 or absent; found: 0x1]
}
