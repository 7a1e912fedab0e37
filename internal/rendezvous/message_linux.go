package rendezvous

import "encoding/binary"

// Magic begins each message.
const Magic = 0x74656e74 // "tnet"

// Version is the version of the protocol and of the layout of shared memory.
const Version = 4

// The kinds of messages.
const (
	KindHello    = 1 + iota // client: asks to be attached; 3 descriptors
	KindWelcome             // server: yes, 2 descriptors; or no, with an errno
	KindAdd                 // client: a new segment; 1 descriptor
	KindAdded               // server: the segment is mapped, or an errno
	KindDrop                // client: a segment is not used any more
	KindRetire              // server: the listener is closed, or another one has its address
	KindInspect             // in place of hello: asks for a snapshot
	KindSnapshot            // server: the snapshot; 1 descriptor
	KindTakeover            // in place of hello: another listener has the address now
	KindTaken               // server: it has retired
	KindFull                // the queue of the receiver's doorbell is full
	KindReset               // in place of hello: asks for the reset of the connection with the ID in Name
	KindDone                // server: it was done, or an errno
	KindCapture             // in place of hello: asks for what flows over the connection with the ID in Name
)

// A Message has the same fields for all kinds. A field that a kind doesn't use is 0.
type Message struct {
	Magic    uint32
	Version  uint16
	Kind     uint16
	App      uint64 // the sender's identity
	Worker   uint32 // the number of the sender's worker for this pair
	Segment  uint32
	ToServer uint32 // fifo sizes: asked for, or decided
	ToClient uint32
	Errno    uint32
	Size     uint32 // of the snapshot
	NameLen  uint32
	Name     [MaxTarget]byte // what was dialed
}

// Target returns what is in Name, whatever NameLen says.
func (m *Message) Target() string { return string(m.Name[:min(m.NameLen, MaxTarget)]) }

// MaxTarget is the largest length of a target's name, in bytes.
const MaxTarget = 208

// MessageSize is the size of a message in bytes.
var MessageSize = binary.Size(Message{})

// maxFDs is the largest number of descriptors with a message.
const maxFDs = 3
