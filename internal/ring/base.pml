// Positions: the consumer reads each byte where the producer has put it, once and in
// order, although the producer starts again at offset 0 when it finds the fifo empty.
//
// What it stands for: a fifo's words tail, base and head, and its data; Producer.look,
// prepare and publish, of which Write, Space, View and Commit are made; Consumer.look and
// release, of which Read, Buffered, Copy and Discard are made. The value of a byte is its
// position. The producer rewinds whenever it may, not only from rewindAfter on.
//
// What it leaves out, and why that is sound:
//   - Counters that wrap: they are only subtracted from each other. TestWrapAtEveryOffset.
//   - A peer that lies: TestLyingConsumer, TestLyingProducer and FuzzHostile.
//   - Waiting: request.pml. The stream's end: ../stream/end.pml.
//   - How plain memory is ordered: each access to a byte is a step of its own, and none of
//     them passes an atomic store or load.
//
// What holds: the byte that is read at a position is the one that was written for it. So
// no byte is overwritten before it was copied out.
//
// check: safety
// mutants: TAIL_BEFORE_BASE TAIL_BEFORE_BYTES BASE_BEFORE_TAIL BASE_KEPT HEAD_BEFORE_COPY
// mutants: REWIND_ANY_TIME

#define SIZE 4
#define TOTAL 11

// The shared words and the data
byte tail, base, head;
byte data[SIZE];

#define MIN(a, b) ((a) < (b) -> (a) : (b))

active proctype producer() {
	byte own;   // Producer.base
	byte known; // Producer.head
	byte n, i, off;
	do
	:: tail == TOTAL -> break
	:: tail < TOTAL ->
		// prepare
		if
		:: known = head
		:: true // it knows of enough space
		fi;
		if
#ifdef MUTANT_REWIND_ANY_TIME
		:: true
#else
		:: known == tail
#endif
			-> own = tail
		:: true // the offset is below rewindAfter
		fi;
		off = (tail - own) % SIZE;
		if
		:: tail - known == SIZE -> skip
		:: else ->
			atomic { select(n : 1 .. MIN(SIZE - (tail - known), TOTAL - tail)) };
#ifdef MUTANT_TAIL_BEFORE_BYTES
			tail = tail + n;
			i = 0;
			do
			:: i < n -> data[(tail - n + i - own) % SIZE] = tail - n + i; i++
			:: else -> break
			od;
			base = own;
#else
			i = 0;
			do
			:: i < n -> data[(off + i) % SIZE] = tail + i; i++
			:: else -> break
			od;
			// publish
#ifdef MUTANT_TAIL_BEFORE_BASE
			tail = tail + n;
#endif
			if
			:: off == 0 -> base = own
			:: else
			fi;
#ifndef MUTANT_TAIL_BEFORE_BASE
			tail = tail + n;
#endif
#endif
			n = 0; i = 0
		fi;
		off = 0
	od
}

active proctype consumer() {
	byte own;   // Consumer.base
	byte known; // Consumer.tail
	byte n, i;
	byte seen;
	do
	:: head == TOTAL -> break
	:: head < TOTAL ->
		// look, if it knows of no bytes, or of too few
		if
		:: true ->
#ifdef MUTANT_BASE_BEFORE_TAIL
			seen = base;
			n = tail;
			if
			:: known == head && n != known -> own = seen
			:: else
			fi;
#else
			n = tail;
			if
#ifndef MUTANT_BASE_KEPT
			:: known == head && n != known -> own = base
#endif
			:: else
			fi;
#endif
			known = n;
			n = 0; seen = 0
		:: known != head
		fi;
		if
		:: known == head -> skip
		:: else ->
			atomic { select(n : 1 .. known - head) };
#ifdef MUTANT_HEAD_BEFORE_COPY
			head = head + n;
			i = 0;
			do
			:: i < n -> assert(data[(head - n + i - own) % SIZE] == head - n + i); i++
			:: else -> break
			od;
#else
			i = 0;
			do
			:: i < n -> assert(data[(head + i - own) % SIZE] == head + i); i++
			:: else -> break
			od;
			head = head + n; // release
#endif
			n = 0; i = 0
		fi
	od
}
