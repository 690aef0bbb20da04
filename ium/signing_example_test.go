package ium_test

import (
	"fmt"
	"log"

	"github.com/govtx/vtx/ium"
)

// The certificate of this image claims a trustlet of Windows; anybody can make it.
func ExampleImage_Signatures() {
	image, err := ium.OpenFile("testdata/signed-rsa.exe")
	if err != nil {
		log.Fatal(err)
	}
	defer image.Close()
	all, err := image.Signatures()
	if err != nil {
		log.Fatal(err)
	}
	for _, s := range all {
		claims := s.Claims()
		fmt.Printf("%v; of the image: %v; by the key of %v: %v\n", s.Digest, s.Image,
			s.Signers[0].Certificate.X509.Subject, s.Signers[0].Signature)
		fmt.Printf("claims level %v (%d)\n", claims.Level, claims.Level)
		for _, e := range claims.EKUs {
			fmt.Println(" ", e)
		}
	}
	// Output:
	// SHA-256; of the image: holds; by the key of CN=vtx test rsa: holds
	// claims level Windows (12)
	//   Code Signing [1.3.6.1.5.5.7.3.3]
	//   Windows System Component Verification [1.3.6.1.4.1.311.10.3.6]
	//   Isolated User Mode (IUM) [1.3.6.1.4.1.311.10.3.37]
}

func ExampleJudge() {
	policy := &ium.Policy{Version: 1, ID: 1, Entries: []ium.Entry{
		{Type: ium.EntryUInt32, ID: ium.PolicyETW, Value: 1},
		{Type: ium.EntryUInt32, ID: ium.PolicyDebug, Value: uint64(ium.DebugWithoutSecureBoot)},
		{Type: ium.EntryUInt32, ID: ium.PolicyCrashDump, Value: 1},
	}}
	for q := range ium.Questions() {
		fmt.Println(ium.Judge(policy, ium.Platform{SecureBoot: true}, q))
	}
	// Output:
	// create: allowed, because the policy is accepted (create-allowed)
	// attach debugger: denied, because debugging is allowed only without Secure Boot, which is enabled (debug-secure-boot)
	// write crash dump: denied, because crash dumps are encrypted with a key of the policy, and it has none (dump-no-key, inferred)
	// trace: allowed, because ETW is enabled (trace-allowed)
	// debug secure kernel: denied, because the secure kernel may not be debugged (kernel-no-debug, inferred)
}

func ExampleImage_Enclave() {
	image, err := ium.OpenFile("testdata/vbs64.dll")
	if err != nil {
		log.Fatal(err)
	}
	defer image.Close()
	c, err := image.Enclave()
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%q of %q, SVN %d: %v\n", c.ImageID, c.FamilyID, c.SecurityVersion, c.Policy)
	for _, e := range c.Imports {
		fmt.Printf("imports %s by %v; part of Windows: %v\n", e.Name, e.Match, e.FromWindows())
	}
	// Output:
	// "image for tests." of "family of tests.", SVN 7: debuggable + strict memory
	// imports vertdll.dll by author id; part of Windows: true
	// imports other_enclave.dll by family id; part of Windows: false
}
