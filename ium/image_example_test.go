package ium_test

import (
	"bytes"
	"fmt"
	"log"

	"github.com/govtx/vtx/ium"
)

// An image is opened and its policy read.
func ExampleImage_Policy() {
	i, err := ium.OpenFile("testdata/policy64.exe")
	if err != nil {
		log.Fatal(err)
	}
	defer i.Close()
	f, err := i.Policy()
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%v %v: %v, at %#x in section %s\n", i.Machine, i.Kind, f.Grade, f.Location.Offset, f.Location.Section)
	fmt.Printf("trustlet %#x\n", f.Policy.ID)
	for _, e := range f.Policy.Entries[:4] {
		fmt.Printf("%v %v %d %q\n", e.ID, e.Type, e.Value, e.Text)
	}
	debug, _ := f.Policy.Debug()
	fmt.Println("debugging:", debug)
	// Output:
	// AMD64 program: valid, at 0x800 in section .tPolicy
	// trustlet 0x1234
	// ImagePolicyIdEtw ImagePolicyEntryTypeUInt32 1 ""
	// ImagePolicyIdDebug ImagePolicyEntryTypeUInt32 2 ""
	// ImagePolicyIdCrashDump ImagePolicyEntryTypeUInt32 1 ""
	// ImagePolicyIdParentSd ImagePolicyEntryTypeUnicodeString 5368721632 "D:(A;;GA;;;S-1-5-83-0)"
	// debugging: without Secure Boot
}

// An image is built whose policy breaks two rules.
func ExampleImageSpec_Build() {
	b, err := (&ium.ImageSpec{Policy: &ium.Policy{
		Version: 2,
		ID:      5,
		Entries: []ium.Entry{{Type: ium.EntryAnsiString, ID: ium.PolicyScenarioID, Text: "AE53FC6E"}},
	}}).Build()
	if err != nil {
		log.Fatal(err)
	}
	i, err := ium.Open(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		log.Fatal(err)
	}
	f, err := i.Policy()
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(f.Grade)
	for _, r := range f.Reasons {
		fmt.Println(r)
	}
	// Output:
	// malformed
	// offset 0x200: version 2: it must be 1: rule policy-version
	// offset 0x230: entry 0: ImagePolicyIdScenarioId is "AE53FC6E", not a GUID such as {01234567-89AB-CDEF-0123-456789ABCDEF}: rule policy-guid
}

// What is known of an id of a policy.
func ExamplePolicyID_Info() {
	id, err := ium.ParsePolicyID("debug")
	if err != nil {
		log.Fatal(err)
	}
	info, _ := id.Info()
	fmt.Println(info.Name, info.Types)
	fmt.Println(info.Meaning)
	// Output:
	// ImagePolicyIdDebug [ImagePolicyEntryTypeUInt32]
	// debugging: 0 never, 1 always, 2 without Secure Boot, 3 after a challenge; others never
}
