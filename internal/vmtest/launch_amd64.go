package vmtest

// Memory of the stubs in launch_amd64.s.
var (
	launchSecond uint64 // physical address of the second VMCS
	//lint:ignore U1000 used in assembly
	launchSP uint64 // SP of launch
)

// launch launches the current VMCS. The status is asm.Status.
func launch() (status uint8)

// launchAddresses gives where HOST_RIP of the two VMCSs must point.
func launchAddresses() (exited, restored uint64)

// These are reached by VM exits.

//lint:ignore U1000 used in assembly
func exited()

//lint:ignore U1000 used in assembly
func restored()
