/*
 * handoff.pml: inside one application a Write copies into the buffer of a Read that waits
 * (handoff.go).
 *
 * Stands for
 *	offer, withdraw, take    the handoff's methods of the same names; offered, buf and n
 *	                         are its state, buf and n
 *	read, awaitInto, awaitData  those of End; passed is its deadline
 *	write, handOff, awaitSpace  methods of End
 *	wait, wake               waiter
 *	Close, CloseWrite        of the end that reads, and of the one that writes
 *	head, tail, fin, mark    the fifo's words. A byte stands for some KiB. A buffer of less
 *	                         than LEAST bytes is not handed over
 *
 * Left out
 *	The gate, but for FIN, which CloseWrite leaves to a busy writer: end.pml.
 *	The look before a wait (End.look): one more look at what is looked at anyway.
 *
 * sync/atomic is sequentially consistent, so it is right to interleave the steps.
 *
 * Properties
 *	The reader gets each byte once and in order, handed over or through the fifo, with
 *	deadlines that pass and whatever is closed; all that Write has written, unless the
 *	reader has closed.
 *	The writer touches the reader's buffer only while Read has not returned, and it
 *	hands over nothing after FIN.
 *	Both come to an end: no wake-up is lost.
 *
 * Mutants
 *	NOT_EMPTY      the writer hands over though it has bytes in the fifo
 *	OFFER_FIRST    the reader offers its buffer before it looks into the fifo
 *	NO_WAIT        withdraw does not wait for a writer that is copying
 *	TAKE_APART     take is a load and a store, no compare-and-swap
 *	USED_EARLY     take says that the buffer was used before it says how much
 *	USED_UNSEEN    the reader does not look for that before it sleeps
 *	FIN_AT_ONCE    old code: CloseWrite tells the end whatever a writer does
 *
 * check: safety
 * mutants: NOT_EMPTY OFFER_FIRST NO_WAIT TAKE_APART USED_EARLY USED_UNSEEN FIN_AT_ONCE
 */

#ifndef BYTES
#define BYTES 4 /* that are written */
#endif
#define SIZE  2 /* of the fifo */
#define LEAST 2
#define LARGE 3 /* buffer */

/* The fifo, whose byte at position p is p%SIZE. */
byte fifo[SIZE];
byte head, tail;
bool fin, mark;
bool wantData, wantSpace;

/* The handoff. */
#define offerNone  0
#define offerMade  1
#define offerTaken 2
#define offerUsed  3
byte offered, n;
byte buf[LARGE];
byte room; /* in buf */

/* The rest of both ends. */
bool isClosed, passed;      /* of the one that reads */
bool writeClosed, busy, finDue; /* of the one that writes */

/* The waiters. */
#define reader 0
#define writer 1
bool waiting[2];
chan token[2] = [1] of { bit };

/* What the properties speak of. */
byte got;       /* bytes that the reader has */
byte written;   /* bytes that Write has written */
bool inRead;
bool ends;      /* CloseWrite is going to be called */

inline wake(w) {
	atomic {
		if
		:: waiting[w] -> waiting[w] = false; woke = true
		:: !waiting[w]
		fi
	}
	if
	:: woke -> token[w]!1; woke = false
	:: !woke
	fi
}

/* The wait of awaitData and awaitSpace. */
inline wait(w, want, ready) {
	waiting[w] = true;
	want = true;
	if
	:: ready ->
		/* waiter.cancel */
		atomic {
			if
			:: waiting[w] -> waiting[w] = false
			:: !waiting[w] -> woke = true
			fi
		}
		if
		:: woke -> token[w]?_; woke = false
		:: !woke
		fi
	:: !(ready) -> token[w]?_
	fi;
	want = false
}

/* The other end's answer to a request. */
inline answer(w, want) {
	if
	:: want -> wake(w)
	:: !want
	fi
}

inline offer() {
	room = left;
	offered = offerMade
}

/* Sets m. */
inline withdraw() {
	atomic {
		if
		:: offered == offerMade -> offered = offerNone; m = 0; room = 0
		:: offered != offerMade -> m = 1
		fi
	}
	if
	:: m == 0
	:: m != 0 ->
#ifndef MUTANT_NO_WAIT
		offered != offerTaken;
#endif
		atomic { m = n; n = 0; room = 0 }
		offered = offerNone
	fi
}

#ifdef MUTANT_USED_UNSEEN
#define used false
#else
#define used (offered == offerUsed)
#endif

/* Sets m. */
inline awaitInto() {
	if
	:: left < LEAST ->
		wait(reader, wantData, (tail > head || passed || isClosed || fin));
		m = 0
	:: left >= LEAST ->
#ifndef MUTANT_OFFER_FIRST
		offer();
#endif
		wait(reader, wantData, (tail > head || passed || isClosed || fin || used));
		withdraw()
	fi
}

/* What the reader has got. */
inline take1(b) {
	assert(b == got + 1);
	got++
}

/* Reads until the end. */
proctype Read() {
	byte left, m;
	bool end, woke;
	do
	:: /* Read */
	   inRead = true;
	   if
	   :: left = 1
	   :: left = LARGE
	   fi;
#ifdef MUTANT_OFFER_FIRST
	   if
	   :: left >= LEAST -> offer()
	   :: else
	   fi;
#endif
	   do
	   :: isClosed -> end = true; break
	   :: !isClosed && passed -> passed = false; break /* the deadline is moved */
	   :: !isClosed && !passed ->
		end = fin;
		if
		:: tail > head ->
			d_step {
				end = false;
				do
				:: left > 0 && tail > head -> take1(fifo[head % SIZE]); fifo[head % SIZE] = 0; head++; left--
				:: else -> break
				od
			}
			answer(writer, wantSpace);
			break
		:: tail == head && end -> assert(got == written); break
		:: tail == head && !end ->
			awaitInto();
			if
			:: m == 0
			:: m > 0 ->
				d_step {
					left = 0;
					do
					:: left < m -> take1(buf[left]); buf[left] = 0; left++
					:: else -> break
					od;
					m = 0
				}
				break
			fi
		fi
	   od;
	   atomic { inRead = false; left = 0 }
	   if
	   :: end -> break
	   :: !end
	   fi
	od;
}

/* Byte number b comes into the reader's buffer. */
inline copy1(b) {
	d_step { assert(inRead && !fin); buf[m] = b }
	m++
}

/* Sets m. */
inline take() {
#ifdef MUTANT_TAKE_APART
	if
	:: offered == offerMade -> offered = offerTaken; m = 1
	:: offered != offerMade -> m = 0
	fi;
#else
	atomic {
		if
		:: offered == offerMade -> offered = offerTaken; m = 1
		:: offered != offerMade -> m = 0
		fi
	}
#endif
	if
	:: m == 0
	:: m != 0 ->
		m = 0;
		do
		:: m < left && m < room -> copy1(written + m + 1)
		:: m == left || m == room -> break
		od;
#ifdef MUTANT_USED_EARLY
		offered = offerUsed;
		n = m
#else
		n = m;
		offered = offerUsed
#endif
	fi
}

#ifdef MUTANT_NOT_EMPTY
#define taken true
#else
#define taken (head == tail)
#endif

/* Sets m. */
inline handOff() {
	m = 0;
	if
	:: left < LEAST || !taken
	:: left >= LEAST && taken ->
		take();
		if
		:: m == 0
		:: m != 0 -> wake(reader)
		fi
	fi
}

inline tellEnd() {
	fin = true;
	answer(reader, wantData)
}

proctype Write() {
	byte left, m;
	bool woke;
	do
	:: written == BYTES -> break
	:: written < BYTES ->
		/* Write */
		if
		:: left = 1
		:: BYTES - written > 1 -> left = BYTES - written
		fi;
		busy = true;
		do
		:: left == 0 || writeClosed || mark -> break
		:: left > 0 && !writeClosed && !mark ->
			handOff();
			if
			:: m > 0
			:: m == 0 ->
				if
				:: tail - head < SIZE ->
					d_step {
						assert(!fin);
						do
						:: m < left && tail - head < SIZE -> m++; fifo[tail % SIZE] = written + m; tail++
						:: else -> break
						od
					}
					answer(reader, wantData)
				:: tail - head == SIZE ->
					wait(writer, wantSpace, (tail - head < SIZE || writeClosed || mark))
				fi
			fi;
			d_step { written = written + m; left = left - m; m = 0 }
		od;
		/* unlock */
		atomic { busy = false; m = finDue; finDue = false }
		if
		:: m -> m = 0; tellEnd()
		:: !m
		fi;
		if
		:: writeClosed || mark -> break
		:: !(writeClosed || mark) ->
			if
			:: true
			:: true -> got == written || mark /* for an answer */
			fi
		fi
	od
	/* The last goroutine that uses the end closes it. */
	if
	:: ends
	:: !ends -> tellEnd()
	fi
}

proctype CloseWrite() {
	bool woke, postponed;
	writeClosed = true;
#ifndef MUTANT_FIN_AT_ONCE
	d_step { postponed = busy; finDue = finDue || busy }
#endif
	if
	:: postponed
	:: !postponed -> tellEnd()
	fi;
	wake(writer)
}

/* Of the end that reads. */
proctype Close() {
	bool woke;
	isClosed = true;
	mark = true;
	answer(writer, wantSpace);
	wake(reader)
}

proctype Expire() {
	bool woke;
	passed = true;
	wake(reader)
}

init {
	atomic {
		if
		:: true
		:: ends = true; run CloseWrite()
		fi;
		if
		:: true
		:: run Close()
		fi;
		run Read(); run Write(); run Expire()
	}
	_nr_pr == 1;
	assert(isClosed || got == written)
}
