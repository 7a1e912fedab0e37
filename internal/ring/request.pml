// Requests: neither side sleeps while it could go on, and no wait ends for nothing again
// and again.
//
// What it stands for: a fifo's words tail, head, wantData and wantSpace; request.raise and
// drop, answer.due; Producer.Write, Space, Commit, HasSpace, DataWanted, ConsumerWaits;
// Consumer.Read, Buffered, Discard, HasData, SpaceWanted, AnySpaceWanted; and how ctnet's
// Conn uses them: write, Reserve and Commit, awaitSpace, read, peek, discard, awaitData,
// and waiter. One goroutine writes TOTAL bytes, in Writes and Reserves of any size; the
// other one reads them, in Reads and Peeks of any size. (ReadFrom waits as Write does,
// WriteTo and Discard as Read.) Each side has a private copy of the other side's position,
// which may be old.
//
// What it leaves out, and why that is sound:
//   - The bytes, and where they lie: place.pml.
//   - That the ring can become larger, which gives a Write or Reserve space where a Peek
//     waits for more than the ring holds: awaitSpace has one more reason to look again, and
//     that look makes the ring larger, so it moves a byte. As for a Write that goes on with
//     fewer, the request of either side is stored before it looks at the other's.
//   - Plain memory: each step is one operation of sync/atomic, which is sequentially
//     consistent, or is private to one side.
//   - How a notification travels: it arrives some time later, and two may become one, as
//     sched's models show. One more may arrive at any moment, for the other direction.
//   - Deadlines, the stream's end and Close, which only wake and end a wait: end.pml.
//   - How long a waiter spins: it looks once, or not at all.
//
// What holds: when nothing more can happen, all bytes were written and read; or one side
// is in a Peek and the other one in a Reserve, and there are neither the bytes for the one
// nor the space for the other. There is no cycle at all, so no wait begins again before a
// byte was moved. And each request is answered once.
//
// check: safety progress
// mutants: DATA_LOOK_FIRST SPACE_LOOK_FIRST NO_DATA_LOOK NO_SPACE_LOOK NUMBER_KEPT
// mutants: ANSWER_IS_A_FLAG ANSWER_FORGOTTEN PEEK_SAYS_NOTHING WRITE_IGNORES_PEEK
// mutants: RESERVE_TAKES_FEWER

#define SIZE 3
#define TOTAL 5
#define QUARTER 2

#define MIN(a, b) ((a) < (b) -> (a) : (b))

// The shared words
byte tail, head, wantData, wantSpace;
#define RAISED 1

// Each side's waiter, and the notification that is on its way to it
#define READER 0
#define WRITER 1
bit waiting[2], token[2], event[2];

// For each request word, the value that the other side has answered last: answer.given
byte dataGiven, spaceGiven;

byte peeking, reserving;          // how many bytes Peek and Reserve wait for
byte dataAnswered, spaceAnswered; // requests that were answered
bit over;                         // nothing more can happen

// request.raise. It may choose any number that the other side does not remember.
inline raise(word, given, answered) {
	atomic {
#ifdef MUTANT_NUMBER_KEPT
		word = RAISED
#else
		if
		:: given != 1 && answered != 1 -> word = 1
		:: else -> if
			:: given != 3 && answered != 3 -> word = 3
			:: else -> word = 5
			fi
		fi
#endif
	}
}

// request.drop
inline drop(word) { word = 0 }

// answer.due, and peer.notify if it is
inline tell(word, given, answered, side) {
	atomic {
		v = word;
		if
#ifdef MUTANT_ANSWER_IS_A_FLAG
		:: v & RAISED && !given -> given = true
#else
		:: v & RAISED && v != given -> given = v
#endif
		:: else -> v = 0
		fi;
#ifdef MUTANT_ANSWER_FORGOTTEN
		given = 0
#endif
	}
	if
	:: v -> atomic { assert(v != answered); answered = v; event[side] = 1; v = 0 }
	:: else
	fi
}

// waiter.cancel if ready, or wait
inline waitUnless(ready, side) {
	if
	:: atomic { ready && waiting[side] -> waiting[side] = 0 }
	:: atomic { token[side] -> token[side] = 0 }
	:: over -> goto stopped
	fi
}

// What End.awaitSpace waits for
inline lookForSpace(n, fewer) {
	ready = SIZE - (tail - head) >= n; // HasSpace
	if
#ifndef MUTANT_WRITE_IGNORES_PEEK
	:: !ready && fewer ->
		if
		:: wantData & RAISED -> ready = SIZE - (tail - head) >= 1 // ConsumerWaits
		:: else
		fi
#endif
	:: else
	fi
}

inline awaitSpace(n, fewer) {
	if
	:: lookForSpace(n, fewer) // spinning
	:: ready = false
	fi;
	if
	:: !ready ->
		waiting[WRITER] = 1; // prepare
#ifdef MUTANT_SPACE_LOOK_FIRST
		lookForSpace(n, fewer);
#endif
		raise(wantSpace, spaceGiven, spaceAnswered);
#if !defined MUTANT_SPACE_LOOK_FIRST && !defined MUTANT_NO_SPACE_LOOK
		lookForSpace(n, fewer);
#endif
		waitUnless(ready, WRITER);
		drop(wantSpace)
	:: else
	fi;
	ready = false
}

// The goroutine that writes
active proctype producer() {
	byte known;      // Producer.head
	byte left, want; // of a Write
	byte m, v;
	bool ready;
	do
	:: tail == TOTAL -> break
	:: tail < TOTAL -> // End.write
		atomic { select(left : 1 .. TOTAL - tail) };
		do
		:: left > 0 ->
			// Producer.Write
			atomic {
				m = SIZE - (tail - known);
				if
				:: m < left -> known = head; m = MIN(left, SIZE - (tail - known))
				:: else -> m = left
				fi
			};
			if
			:: m == 0 -> want = MIN(left, QUARTER); awaitSpace(want, true); want = 0
			:: else ->
				atomic { tail = tail + m; left = left - m; m = 0 };
				tell(wantData, dataGiven, dataAnswered, READER)
			fi
		:: else -> break
		od
	:: tail < TOTAL -> // Reserve and Commit
		atomic { select(reserving : 1 .. MIN(SIZE, TOTAL - tail)) };
		do
		:: SIZE - (tail - known) >= reserving -> break
		:: else ->
			known = head;
			if
			:: SIZE - (tail - known) >= reserving -> break
			:: else
#ifdef MUTANT_RESERVE_TAKES_FEWER
				-> awaitSpace(reserving, true)
#else
				-> awaitSpace(reserving, false)
#endif
			fi
		od;
		atomic { tail = tail + reserving; reserving = 0 }
		tell(wantData, dataGiven, dataAnswered, READER)
	od;
stopped:
}

inline awaitData(have) {
	if
	:: ready = tail - head > have // spinning
	:: ready = false
	fi;
	if
	:: !ready ->
		waiting[READER] = 1; // prepare
#ifdef MUTANT_DATA_LOOK_FIRST
		ready = tail - head > have;
#endif
		raise(wantData, dataGiven, dataAnswered);
#ifndef MUTANT_PEEK_SAYS_NOTHING
		if
		:: have > 0 -> tell(wantSpace, spaceGiven, spaceAnswered, WRITER) // AnySpaceWanted()
		:: else
		fi;
#endif
#if !defined MUTANT_DATA_LOOK_FIRST && !defined MUTANT_NO_DATA_LOOK
		ready = tail - head > have; // HasData
#endif
		waitUnless(ready, READER);
		drop(wantData)
	:: else
	fi;
	ready = false
}

// release gives n bytes back, and tells the producer if SpaceWanted says so.
inline release(n) {
	head = head + n;
	if
	:: known - head <= SIZE - QUARTER -> tell(wantSpace, spaceGiven, spaceAnswered, WRITER)
	:: else
	fi
}

// The goroutine that reads
active proctype consumer() {
	byte known;    // Consumer.tail
	byte left;     // of a Read's buffer
	byte m, v;
	bool ready;
	do
	:: head == TOTAL -> break
	:: head < TOTAL -> // End.read
		atomic { select(left : 1 .. TOTAL - head) };
		m = 0;
		do
		:: left > 0 ->
			if
			:: known == head -> known = tail
			:: else
			fi;
			if
			:: known > head ->
				atomic { m = MIN(left, known - head); left = left - m };
				release(m)
			:: known == head && m > 0 -> break
			:: known == head && m == 0 -> awaitData(0)
			fi
		:: else -> break
		od;
		left = 0; m = 0
	:: head < TOTAL -> // Peek, and then Discard, of all or less
		atomic { select(peeking : 1 .. MIN(SIZE, TOTAL - head)) };
		do
		:: known - head >= peeking -> break
		:: else ->
			known = tail;
			if
			:: known - head >= peeking -> break
			:: else -> awaitData(known - head)
			fi
		od;
		atomic { select(m : 1 .. peeking); peeking = 0 };
		release(m);
		m = 0
	od;
stopped:
}

// Notifications on their way: bitmap, worker, End.Wake
active proctype worker() {
	bit side;
end:	do
	:: atomic { event[READER] -> event[READER] = 0; side = READER }
		atomic {
			if
			:: waiting[side] -> waiting[side] = 0; token[side] = 1 // wake
			:: else
			fi
		}
	:: atomic { event[WRITER] -> event[WRITER] = 0; side = WRITER }
		atomic {
			if
			:: waiting[side] -> waiting[side] = 0; token[side] = 1
			:: else
			fi
		}
	od
}

// One notification for the other direction
active proctype other() {
end:	if
	:: event[READER] = 1
	:: event[WRITER] = 1
	fi
}

active proctype final() {
	timeout ->
	assert(tail == TOTAL && head == TOTAL ||
		tail - head < peeking && SIZE - (tail - head) < reserving);
	over = 1
}
