package hypercall

// MessagePayloadMax is the size of the longest payload of a message in bytes.
const MessagePayloadMax = 240

// A PostMessageInput is the input of HvCallPostMessage (TLFS HvCallPostMessage.md).
//
//vtx:layout
type PostMessageInput struct {
	ConnectionID uint32 // bits 23:0
	Reserved     uint32
	MessageType  MessageType // not 0, and bit 31 clear
	PayloadSize  uint32      // in bytes, up to 240
	Payload      [240]uint8
}

// A SignalEventInput is the input of HvCallSignalEvent (TLFS HvCallSignalEvent.md).
//
//vtx:layout
type SignalEventInput struct {
	ConnectionID uint32 // bits 23:0
	FlagNumber   uint16 // from the port's first
	Reserved     uint16
}

// A SignalEventDirectInput is the input of HvCallSignalEventDirect (TLFS
// HvCallSignalEventDirect.md).
//
//vtx:layout
type SignalEventDirectInput struct {
	PartitionID uint64
	VPIndex     uint32
	TargetVTL   VTL
	TargetSint  uint8
	FlagNumber  uint16
}

// A SignalEventDirectOutput is the output of HvCallSignalEventDirect.
//
//vtx:layout
type SignalEventDirectOutput struct {
	NewlySignaled uint8 // 1 if the flag was clear before
	Reserved      [7]uint8
}

// A NotifyLongSpinWaitInput is the input of HvCallNotifyLongSpinWait (TLFS
// HvCallNotifyLongSpinWait.md).
//
//vtx:layout
type NotifyLongSpinWaitInput struct {
	SpinCount uint32
	Reserved  uint32
}
