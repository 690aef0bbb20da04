package main

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/govtx/vtx/ium"
)

func TestSecureService(t *testing.T) {
	for _, tc := range []struct {
		args   []string
		out    []string
		errOut string
		status int
	}{
		{[]string{"SECURESERVICE_CREATE_PROCESS"}, []string{"16299         0x5  SECURESERVICE_CREATE_PROCESS\n", "22000         0x6  SECURESERVICE_CREATE_PROCESS\n"}, "", 0},
		{[]string{"-build", "1803", "create process"}, []string{"17134   0x5  SECURESERVICE_CREATE_PROCESS\n"}, "", 0},
		{[]string{"-build", "10.0.19045.3000", "6"}, []string{"19041   0x6  SECURESERVICE_CREATE_PROCESS\n"}, "", 0},
		{[]string{"6", "-build", "19041"}, []string{"19041   0x6  SECURESERVICE_CREATE_PROCESS\n"}, "", 0},
		{[]string{"010", "-build=19041"}, []string{"19041   0xa  SECURESERVICE_TERMINATE_THREAD\n"}, "", 0},
		{[]string{"0xdf"}, []string{"16299         0xdf  SECURESERVICE_DISPATCH_LEVEL_FIRST  marker: no service\n", "17763.1       0xdf  SECURESERVICE_UPDATE_IMPORT_RELOCATIONS\n"}, "", 0},
		{[]string{"finish-start-processor"}, []string{"17134         -\n", "17763.1       0x3"}, "", 0},
		{[]string{"IumCrypto"}, []string{"27823   0x8000005  IumCrypto\n"}, "", 0},
		{[]string{"0x8000018"}, []string{"27823   0x8000018  IumEnclaveUsesAttestedKeys\n"}, "", 0},
		{[]string{"-build=27823"}, []string{"0x8000000   IumAssignMemoryToSocDomain"}, "", 0},
		{[]string{"-build=19041"}, []string{"0x10b       SECURESERVICE_SVC_CALL\n", "0xbf        SECURESERVICE_NO_TRACING_FIRST  marker: no service\n", "0x8000017   IumUpdateSecureDeviceState"}, "", 0},
		{[]string{"-diff", "17763.1", "-build", "17763"}, []string{"17763.1   17763   name\n", "0xdd      -       SECURESERVICE_SET_RETPOLINE_PFN               gone\n", "moved\n"}, "", 0},
		{[]string{"-diff", "19041", "-build", "27823"}, []string{"-       0x8000018   IumEnclaveUsesAttestedKeys   new\n"}, "", 0},
		{[]string{"-diff", "19041", "-build", "19041"}, []string{"19041   19041   name\n"}, "", 0},
		{nil, []string{"build         services   system calls", "19041         128        24", "27823         -          25"}, "", 0},
		{[]string{"-build", "19041", "7000"}, nil, "number 0x1b58 is not in use among the secure services of build 19041", 1},
		{[]string{"7000"}, nil, "not in use in any build", 1},
		{[]string{"-build", "16299", "FINISH_START_PROCESSOR"}, nil, "build 16299 has no SECURESERVICE_FINISH_START_PROCESSOR", 1},
		{[]string{"-build", "16299", "IumCrypto"}, nil, "use one of the builds 19041, 25276, 27823", 1},
		{[]string{"retpoline"}, nil, "there are SECURESERVICE_INITIALIZE_RETPOLINE", 1},
		{[]string{"nothing"}, nil, "no secure service or system call of trustlets is named", 1},
		{[]string{"99999999999"}, nil, "want a number of 32 bits", 2},
		{[]string{"0x99999999999"}, nil, "want a number of 32 bits", 2},
		{[]string{"0xyz"}, nil, "want a number of 32 bits", 2},
		{[]string{"6", "-bild", "19041"}, nil, "flag provided but not defined: -bild", 2},
		{[]string{"-build", "22621", "6"}, nil, "use one of 16299", 2},
		{[]string{"-build", "17763.100", "6"}, nil, "it is not known which numbers 17763.100 has", 2},
		{[]string{"-diff", "19041"}, nil, "-diff wants -build", 2},
		{[]string{"-diff", "19041", "-build", "22000", "6"}, nil, "-diff takes no NAME", 2},
		{[]string{"-diff", "16299", "-build", "27823"}, nil, "one is known for secure services only", 2},
		{[]string{"create", "process"}, nil, "want one NAME or NUMBER, not 2", 2},
	} {
		t.Run(strings.Join(tc.args, " "), func(t *testing.T) {
			checkOutcome(t, append([]string{"secure-service"}, tc.args...), tc.out, tc.errOut, tc.status)
		})
	}
}

// Every number and every name is found, in each build.
func TestSecureServiceAll(t *testing.T) {
	for _, n := range numberings() {
		for _, b := range n.Builds() {
			all, err := n.All(b)
			require.NoError(t, err)
			for _, r := range all {
				var out strings.Builder
				s := &serviceRun{build: &b, out: &out}
				for _, text := range []string{r.Name, fmt.Sprint(r.Number), fmt.Sprintf("%#x", r.Number)} {
					out.Reset()
					status, err := s.run([]string{text})
					require.NoError(t, err)
					require.Zero(t, status, "%v: %s", b, text)
					if b != ium.Build17763First || !r.Marker {
						require.Contains(t, out.String(), r.Name, "%v: %s", b, text)
					}
				}
			}
		}
	}
}
