package hostile

import (
	"fmt"
	"reflect"
	"sync/atomic"
	"unsafe"

	"cutthrough.example/internal/sched"
	"cutthrough.example/internal/segpool"
)

// All that this package knows of what is shared is in this file and in speak_linux_test.go.
// Layouts come from the packages themselves as far as these have them.

// Sizes of what is shared besides segments.
const (
	bitmapPages = (sched.BitmapSize + 4095) &^ 4095
	blockSize   = 2 * bitmapPages
	sleepSize   = sched.MaxWorkers * sched.WordSize
)

// bitmaps returns the two directions of an event block.
func bitmaps(block *segpool.Memory) (toServer, toClient sched.Bitmap) {
	return sched.NewBitmap(block.Bytes[:bitmapPages]), sched.NewBitmap(block.Bytes[bitmapPages:])
}

// sleepWord returns the sleep word of a worker.
func sleepWord(m *segpool.Memory, worker int) *atomic.Uint32 {
	return (*atomic.Uint32)(unsafe.Pointer(&m.Bytes[worker*sched.WordSize]))
}

// A word is one that two processes share, at an offset of some memory.
type word struct {
	name string
	at   uintptr
	bits int
}

func (w word) load(mem []byte) uint64 {
	p := unsafe.Pointer(&mem[w.at])
	if w.bits == 32 {
		return uint64((*atomic.Uint32)(p).Load())
	}
	return (*atomic.Uint64)(p).Load()
}

func (w word) store(mem []byte, v uint64) {
	p := unsafe.Pointer(&mem[w.at])
	if w.bits == 32 {
		(*atomic.Uint32)(p).Store(uint32(v))
	} else {
		(*atomic.Uint64)(p).Store(v)
	}
}

// in returns the word of the slot with an index in its segment.
func (w word) in(slot int) word {
	w.at += uintptr(slot) * slotHeader.Size()
	return w
}

// slotHeader is the type of a slot's words, which has no name outside its package.
var slotHeader = func() reflect.Type {
	f, ok := reflect.TypeFor[segpool.Slot]().FieldByName("header")
	if !ok {
		panic("a Slot has no header")
	}
	return f.Type.Elem()
}()

// slotWords are all words of a slot's header, such as "client.state" and "toServer.tail".
var slotWords = wordsOf(slotHeader, "", 0)

func wordsOf(t reflect.Type, name string, at uintptr) (all []word) {
	switch t {
	case reflect.TypeFor[atomic.Uint64]():
		return []word{{name, at, 64}}
	case reflect.TypeFor[atomic.Uint32]():
		return []word{{name, at, 32}}
	}
	if t.Kind() != reflect.Struct {
		return nil // padding
	}
	for i := range t.NumField() {
		f := t.Field(i)
		within := f.Name
		if name != "" {
			within = name + "." + f.Name
		}
		all = append(all, wordsOf(f.Type, within, at+f.Offset)...)
	}
	return all
}

// slotWord returns the word with a name.
func slotWord(name string) word {
	for _, w := range slotWords {
		if w.name == name {
			return w
		}
	}
	panic("no word " + name)
}

var (
	clientState = slotWord("client.state")
	serverState = slotWord("server.state")
)

// blockWords are the words of both bitmaps: all levels, of the leaves those of the first slots
// and some others.
var blockWords = func() (all []word) {
	const mids, leaves = 16, 1024
	for direction, name := range []string{"to server", "to client"} {
		at := uintptr(direction * bitmapPages)
		all = append(all, word{name + ": top", at, 64})
		for i := range mids {
			all = append(all, word{fmt.Sprintf("%s: mid %d", name, i), at + 64 + uintptr(8*i), 64})
		}
		for i := range leaves {
			if i < 16 || i%97 == 0 || i == leaves-1 {
				all = append(all, word{fmt.Sprintf("%s: leaf %d", name, i), at + 64 + 8*mids + uintptr(8*i), 64})
			}
		}
	}
	return all
}()

// setAll sets all bits of a bitmap for the slots below n, a multiple of 64, from the leaves
// upward.
func setAll(block *segpool.Memory, direction, n int) {
	base := uintptr(direction * bitmapPages)
	leaves := n / 64
	for i := range leaves {
		word{"", base + 64 + 8*16 + uintptr(8*i), 64}.store(block.Bytes, ^uint64(0))
	}
	for i := range (leaves + 63) / 64 {
		word{"", base + 64 + uintptr(8*i), 64}.store(block.Bytes, ^uint64(0)>>(64-min(64, leaves-64*i)))
	}
	word{"", base, 64}.store(block.Bytes, ^uint64(0)>>(64-(leaves+63)/64))
}
