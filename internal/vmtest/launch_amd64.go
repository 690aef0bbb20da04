package vmtest

//lint:file-ignore U1000 what is here is used in assembly

// Memory of the stubs in launch_amd64.s.
var (
	launchSecond uint64 // physical address of the second VMCS
	launchSP     uint64 // SP of launch
)

// launch launches the current VMCS. The status is asm.Status.
func launch() (status uint8)

// launchAddresses gives where HOST_RIP of the two VMCSs must point.
func launchAddresses() (exited, restored uint64)

// These are reached by VM exits.

func exited()

func restored()
