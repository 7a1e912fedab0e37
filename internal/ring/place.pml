// Positions: the consumer reads each byte where the producer has put it, once and in
// order, although the producer moves the ring's start, makes the ring larger while bytes
// are in it, and makes it smaller and gives pages back when it finds the fifo empty.
//
// What it stands for: a fifo's words tail, place, head and seen, and its data; Producer.look,
// prepare, restart, grow, Shrink and publish, of which Write, Space, View and Commit are
// made; Consumer.look and release, of which Read, Buffered, Copy and Discard are made. The
// value of a byte is its position. The producer restarts and resizes whenever it may, not
// only when it has a reason to.
//
// What it leaves out, and why that is sound:
//   - Counters that wrap: they are only subtracted from each other. TestWrapAtEveryOffset.
//   - A peer that lies: TestLyingConsumer, TestLyingProducer and FuzzHostile.
//   - Waiting: request.pml. The stream's end: ../stream/end.pml.
//   - How plain memory is ordered: each access to a byte is a step of its own, and none of
//     them passes an atomic store or load.
//
// What holds: the byte that is read at a position is the one that was written for it. So
// no byte is overwritten, and no page is given back, before it was copied out. And the
// consumer never sees more bytes than the ring holds that it sees, which it takes for a lie.
//
// check: safety
// mutants: TAIL_BEFORE_PLACE TAIL_BEFORE_BYTES PLACE_BEFORE_TAIL PLACE_KEPT HEAD_BEFORE_COPY
// mutants: RESTART_ANY_TIME SHRINK_ANY_TIME NOT_MOVED MOVED_TOO_LATE NO_WALL SEEN_TOO_EARLY
// mutants: WALL_FORGOTTEN WALL_DROPPED WALL_TOO_EARLY

#define AREA 8
#define TOTAL 9
#define GARBAGE 99
#define FIRST 2

// The shared words and the data. place is the size and the base, in one word. seen begins with
// a size that the consumer has not seen, but expects. Of a restart the Producer stores the place
// a little later, just before the tail.
byte tail, head, place = FIRST << 3, seen = 4;
byte data[AREA];

#define MIN(a, b) ((a) < (b) -> (a) : (b))

#define PLACE (size << 3 | own % size)

active proctype producer() {
	byte own;      // Producer.base: the position at offset 0
	byte size = FIRST; // Producer.mask + 1
	byte wall;     // Producer.wall
	byte known;    // Producer.head
	byte n, i, room, off;
	do
	:: tail == TOTAL -> break
	:: tail < TOTAL ->
		// prepare
		if
		:: known = head // look
		:: true // it knows of enough space
		fi;
		// restart, at any of the sizes: Shrink is a restart at the first one
		if
#if defined MUTANT_RESTART_ANY_TIME || defined MUTANT_SHRINK_ANY_TIME
		:: true ->
#else
		:: known == tail ->
#endif
			own = tail;
			wall = tail;
#ifndef MUTANT_RESTART_ANY_TIME
			if
			:: size > FIRST -> // Shrink
				size = FIRST;
				place = PLACE;
				i = 1;
				do
				:: i < AREA -> data[i] = GARBAGE; i++
				:: else -> break
				od;
				i = 0
			:: true -> place = PLACE
			fi
#else
			place = PLACE
#endif
		// grow, at once or in several steps before the consumer looks
		:: size < AREA ->
			off = (known - own) % size;
#ifdef MUTANT_MOVED_TOO_LATE
			own = known - off;
			place = (2 * size) << 3 | own % (2 * size);
			own = known;
#endif
			// the bytes beyond the ring's end lie at its start
#ifndef MUTANT_NOT_MOVED
			i = size;
			do
			:: i < off + (tail - known) -> data[i] = data[i - size]; i++
			:: else -> break
			od;
			i = 0;
#endif
#ifdef MUTANT_WALL_DROPPED
			wall = known;
#endif
#ifndef MUTANT_NO_WALL
			if
			:: off + (tail - known) > size -> wall = tail
			:: else // an earlier wall stays
			fi;
#endif
			own = known - off;
			size = 2 * size;
			off = 0;
#ifndef MUTANT_TAIL_BEFORE_PLACE
			place = PLACE
#endif
		:: true // the offset is below restartAfter, and there is no reason to grow
		fi;
		// what is free: to the ring's end, or all of it
		if
#ifdef MUTANT_WALL_TOO_EARLY
		:: wall > known + 1 && seen != size -> room = own + size - known
#else
		:: wall > known && seen != size -> room = own + size - known
#endif
		:: else -> room = size; wall = known
		fi;
#ifdef MUTANT_WALL_FORGOTTEN
		wall = known;
#endif
		off = (tail - own) % size;
		if
		:: tail - known == room -> skip
		:: else ->
			atomic { select(n : 1 .. MIN(room - (tail - known), TOTAL - tail)) };
#ifdef MUTANT_TAIL_BEFORE_BYTES
			tail = tail + n;
			i = 0;
			do
			:: i < n -> data[(tail - n + i - own) % size] = tail - n + i; i++
			:: else -> break
			od;
#else
			i = 0;
			do
			:: i < n -> data[(off + i) % size] = tail + i; i++
			:: else -> break
			od;
			// publish
			tail = tail + n;
#ifdef MUTANT_TAIL_BEFORE_PLACE
			place = PLACE;
#endif
#endif
			n = 0; i = 0
		fi;
		off = 0; room = 0
	od
}

active proctype consumer() {
	byte own;      // Consumer.base
	byte size = FIRST; // Consumer.mask + 1
	byte known;    // Consumer.tail
	byte n, i;
	byte p;
	do
	:: head == TOTAL -> break
	:: head < TOTAL ->
		// look, if it knows of no bytes, or of too few
		if
		:: true ->
#ifdef MUTANT_PLACE_BEFORE_TAIL
			p = place;
			n = tail;
#else
			n = tail;
			p = place;
#endif
			if
			:: n != known ->
#ifdef MUTANT_PLACE_KEPT
				if
				:: known == head -> own = p & 7; size = p >> 3
				:: else
				fi;
#else
				own = p & 7; size = p >> 3;
#endif
				assert(n - head <= size);
				known = n;
#ifndef MUTANT_SEEN_TOO_EARLY
				seen = size
#endif
			:: else
			fi;
			n = 0; p = 0
		:: known != head
		fi;
		if
		:: known == head -> skip
		:: else ->
#ifdef MUTANT_SEEN_TOO_EARLY
			seen = place >> 3;
#endif
			atomic { select(n : 1 .. known - head) };
#ifdef MUTANT_HEAD_BEFORE_COPY
			head = head + n;
			i = 0;
			do
			:: i < n -> assert(data[(head - n + i + size - own) % size] == head - n + i); i++
			:: else -> break
			od;
#else
			i = 0;
			do
			:: i < n -> assert(data[(head + i + size - own) % size] == head + i); i++
			:: else -> break
			od;
			head = head + n; // release
#endif
			n = 0; i = 0
		fi
	od
}
