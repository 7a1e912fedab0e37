// Positions: the consumer finds each byte where the producer has put it, once, in order,
// though the producer starts again at offset 0 when it finds the fifo empty.
//
// What it stands for: a fifo's words tail, base and head, and its data; Producer.look,
// prepare and publish, with Write, Space, View and Commit made of them; Consumer.look and
// release, with Read, Buffered, Copy and Discard made of them. The value of a byte is its
// position. A producer rewinds whenever it may, not only from rewindAfter on.
//
// What it leaves out, and why that is sound:
//   - Counters that wrap: they are only subtracted from each other. TestWrapAtEveryOffset.
//   - A peer that lies: TestLyingConsumer, TestLyingProducer and FuzzHostile.
//   - Waiting: request.pml. The stream's end: ../stream/end.pml.
//   - Plain memory: each byte is a step, and an atomic store or load is neither overtaken
//     by what came before it nor overtakes what comes after it.
//
// What holds: every byte read is the one of that position, so none was overwritten before
// it was copied out.
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
	byte own; // Producer.base
	byte believed; // Producer.head
	byte n, i, off;
	do
	:: tail == TOTAL -> break
	:: tail < TOTAL ->
		// prepare
		if
		:: believed = head
		:: true // it knows of enough
		fi;
		if
#ifdef MUTANT_REWIND_ANY_TIME
		:: true
#else
		:: believed == tail
#endif
			-> own = tail
		:: true // not far enough to look
		fi;
		off = (tail - own) % SIZE;
		if
		:: tail - believed == SIZE -> skip
		:: else ->
			atomic { select(n : 1 .. MIN(SIZE - (tail - believed), TOTAL - tail)) };
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
	byte own; // Consumer.base
	byte believed; // Consumer.tail
	byte n, i;
	byte seen;
	do
	:: head == TOTAL -> break
	:: head < TOTAL ->
		// look, if it knows of none, or of too few
		if
		:: true ->
#ifdef MUTANT_BASE_BEFORE_TAIL
			seen = base;
			n = tail;
			if
			:: believed == head && n != believed -> own = seen
			:: else
			fi;
#else
			n = tail;
			if
#ifndef MUTANT_BASE_KEPT
			:: believed == head && n != believed -> own = base
#endif
			:: else
			fi;
#endif
			believed = n;
			n = 0; seen = 0
		:: believed != head
		fi;
		if
		:: believed == head -> skip
		:: else ->
			atomic { select(n : 1 .. believed - head) };
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
