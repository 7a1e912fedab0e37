/*
 * end.pml: the end of the stream (end.go): FIN and reset against the calls that write and
 * read at the same end, and what the peer gets to know.
 *
 * Stands for
 *	gate            the gate's bits for the locks, and the endings left to a holder
 *	state           End.state; linger is lingerZero
 *	tx, rx          what this end writes and reads: the words of ring.Header; rxLent is
 *	                Consumer.lent. A byte is a piece
 *	Write           End.Write
 *	CopyFrom        End.CopyFrom, and Reserve with Commit: they publish after code of others
 *	Read, CopyTo   End.Read, End.CopyTo; Read may find the peer corrupt
 *	CloseWrite, Close, shutdown, endUnread, tellEnd, endStream, notifyEnd: end.go
 *	PeerRead, PeerWrite  Read and Write of the other end, with waiting for data and space
 *
 * Left out
 *	References and waiting for a lock: gate.pml. Close and CloseWrite wake the
 *	goroutines of this end that wait in its fifos, after they have set a bit of the state;
 *	so here those wait for that bit.
 *	How a notification comes to the peer: it is one step here.
 *
 * sync/atomic is sequentially consistent, so it is right to interleave the steps.
 *
 * Properties
 *	Nothing is published after FIN or reset, so the peer reads nothing after the end.
 *	Each end is told in the end: Close's, and CloseWrite's too though Close never comes,
 *	and neither has to wait for code of others in CopyFrom and CopyTo. The peer that
 *	waits is woken.
 *	Close resets if bytes are never read that were published before its mark, and does
 *	not reset if all are read; always after SetLinger(0) and corruption.
 *	If a Write of the peer returns nil, its bytes are read, or the peer's Read fails.
 *
 * Mutants
 *	END_AT_ONCE      old code: CloseWrite and Close end the stream whatever writers do
 *	BUSY_READER      Close decides at once though a reader is busy
 *	STALE_LOOK       Close takes the first look for unread bytes though a reader was busy then
 *	LENT_LENGTH      what CopyTo has lent is a number of bytes, looked at first, which is
 *	                 cleared before they are released
 *	SHORT_FIN        what CopyTo's writer has not taken makes no reset of a FIN
 *	SHORT_EARLY      CopyTo looks whether the end was closed, then takes bytes back
 *	MARK_LATE        Close looks for unread bytes before it sets its mark
 *	BLIND_RESUME     CopyFrom does not look whether the gate was closed meanwhile
 *	RESUME_CORRUPT   it does not look whether a Read found the peer corrupt
 *	LEND_KEEPS       lend leaves what is due to unlock
 *	LENT_IS_BUSY     postpone takes a lock that is lent for a busy one
 *	STATE_LATE       CloseWrite looks for a busy writer before it sets its bit
 *	NOTIFY_EARLY     the peer's requests are looked at before the end is told
 *
 * check: safety
 * mutants: END_AT_ONCE BUSY_READER STALE_LOOK LENT_LENGTH SHORT_FIN SHORT_EARLY MARK_LATE BLIND_RESUME RESUME_CORRUPT LEND_KEEPS LENT_IS_BUSY STATE_LATE NOTIFY_EARLY
 */

#ifndef PEER_WRITES
#define PEER_WRITES 3 /* bytes */
#endif
#define SIZE 2 /* of the fifo that the peer writes into */

#define reading 0
#define writing 1

/* The gate. */
bool closed, gateFin, gateShut;
bool locked[2], lent[2];

/* The state. */
bool isClosed, writeClosed, corrupted, linger;

/* The fifos. */
byte txTail, txHead;
bool fin, reset;
byte rxTail, rxHead, rxLent;
bool rxClosed;

/* The peer's requests, wantData and wantSpace, and its waiters. */
bool want[2], woken[2];

/* The peer's state. */
bool bytesLost;

/* What the properties speak of. */
byte taken;      /* bytes that were read, or handed to CopyTo's writer */
byte before;     /* bytes that were published when the mark was set */
bool hasShut;    /* shutdown was done */
byte told;       /* by tellEnd */
byte calls;      /* that have not returned, but for Close */
bool halfClose;  /* CloseWrite is going to be called */
bool patient;    /* Close waits for all other calls */

#define ended (fin || reset)

inline notify() {
	d_step {
		woken[reading] = woken[reading] || want[reading];
		woken[writing] = woken[writing] || want[writing]
	}
}

/* The gate. A lock is taken if ok. */
inline lock(k) {
	atomic {
		if
		:: !closed && !locked[k] -> locked[k] = true; ok = true
		:: closed -> ok = false
		fi
	}
}

inline unlock(k) {
	d_step {
		locked[k] = false;
		lent[k] = false;
		claim(k)
	}
	end()
}

inline lend(k) {
	d_step {
		lent[k] = true;
#ifndef MUTANT_LEND_KEEPS
		claim(k)
#endif
	}
	end()
}

inline claim(k) {
	dueShut = gateShut;
	gateShut = false;
	if
	:: k == writing -> dueFin = gateFin; gateFin = false
	:: else
	fi
}

#ifdef MUTANT_LENT_IS_BUSY
#define busy(k) locked[k]
#else
#define busy(k) (locked[k] && !lent[k])
#endif

/* Says postponed if a busy holder does it. */
inline postpone(k, what) {
	d_step {
		postponed = busy(k);
		if
		:: postponed -> what = true
		:: else
		fi
	}
}

inline end() {
	if
	:: dueFin -> dueFin = false; tellEnd()
	:: else
	fi
	if
	:: dueShut -> dueShut = false; shutdown()
	:: else
	fi
}

inline notifyEnd() {
	if
	:: want[reading] || want[writing] -> notify()
	:: else
	fi
}

inline tell(r) {
#ifdef MUTANT_NOTIFY_EARLY
	notifyEnd();
#endif
	d_step {
		if
		:: r -> reset = true
		:: else -> fin = true
		fi
	}
#ifndef MUTANT_NOTIFY_EARLY
	notifyEnd()
#endif
}

inline tellEnd() {
	doReset = corrupted;
	tell(doReset);
	d_step { told++; doReset = false }
}

inline endStream() {
#ifdef MUTANT_END_AT_ONCE
	postponed = false;
#else
	postpone(writing, gateFin);
#endif
	if
	:: postponed -> postponed = false
	:: else -> tellEnd()
	fi
}

/* Consumer.Unread. Sets unread. */
inline look() {
#ifdef MUTANT_LENT_LENGTH
	lentSeen = rxLent;
	tailSeen = rxTail;
	d_step { unread = tailSeen - rxHead != lentSeen; tailSeen = 0; lentSeen = 0 }
#else
	headSeen = rxHead;
	lentSeen = rxLent;
	d_step { unread = rxTail != headSeen && rxTail != lentSeen; headSeen = 0; lentSeen = 0 }
#endif
}

inline setMark() {
	d_step { rxClosed = true; before = rxTail }
}

inline shutdown() {
#ifdef MUTANT_END_AT_ONCE
	postponed = false;
#else
	postpone(writing, gateShut);
#endif
	if
	:: postponed -> postponed = false
	:: else ->
#ifndef MUTANT_MARK_LATE
		setMark();
#endif
		doReset = linger || corrupted;
		if
		:: doReset
		:: !doReset ->
			look();
			if
			:: !unread
			:: unread ->
#ifndef MUTANT_BUSY_READER
				postpone(reading, gateShut);
#endif
				if
				:: postponed
				:: !postponed ->
#ifndef MUTANT_STALE_LOOK
					look();
#endif
					d_step { doReset = unread; unread = false }
				fi
			fi
		fi;
		if
		:: postponed -> d_step { postponed = false; unread = false }
		:: !postponed ->
#ifdef MUTANT_MARK_LATE
			setMark();
#endif
			tell(doReset);
			d_step { hasShut = true; doReset = false }
		fi
	fi
}

inline endUnread() {
#ifdef MUTANT_SHORT_FIN
	skip
#else
	linger = true;
	postpone(writing, gateShut);
	if
	:: postponed -> postponed = false
	:: !postponed -> reset = true; notifyEnd()
	fi
#endif
}

#define OWN bool ok, dueFin, dueShut, postponed, doReset, unread; byte headSeen, lentSeen, tailSeen, n

/* End.lost, as far as it is this end's */
#define noWrite (isClosed || corrupted || writeClosed)

inline publish() {
	d_step { assert(!ended); txTail++ }
	if
	:: want[reading] -> notify()
	:: else
	fi
}

proctype Write(byte pieces) {
	OWN;
	lock(writing);
	if
	:: !ok
	:: ok ->
		do
		:: n == pieces -> break
		:: n < pieces && noWrite -> break
		:: n < pieces && !noWrite ->
			if
			:: true -> publish(); n++
			:: !patient -> noWrite /* the fifo is full */
			fi
		od;
		unlock(writing)
	fi;
	d_step { calls--; ok = false; n = 0 }
}

#ifdef MUTANT_BLIND_RESUME
#define resumeOpen true
#else
#define resumeOpen !closed
#endif
#ifdef MUTANT_RESUME_CORRUPT
#define resumeLooks writeClosed
#else
#define resumeLooks (writeClosed || corrupted)
#endif

proctype CopyFrom(byte pieces) {
	OWN;
	lock(writing);
	if
	:: !ok
	:: ok ->
		do
		:: n == pieces -> break
		:: n < pieces && noWrite -> break
		:: n < pieces && !noWrite ->
			lend(writing);
			if
			:: true
			:: halfClose || !patient -> ended /* r.Read waits for that */
			fi;
			d_step { ok = resumeOpen; lent[writing] = false }
			ok = ok && !resumeLooks;
			if
			:: ok -> publish(); n++
			:: !ok -> break
			fi
		od;
		unlock(writing)
	fi;
	d_step { calls--; ok = false; n = 0 }
}

inline readOne() {
	/* The copy, then the head. */
	d_step { rxHead++; taken = (rxHead > taken -> rxHead : taken) }
	if
	:: want[writing] -> notify()
	:: else
	fi
}

proctype Read(bool hostile) {
	OWN;
	lock(reading);
	if
	:: !ok
	:: ok ->
		if
		:: isClosed || corrupted
		:: !(isClosed || corrupted) ->
			if
			:: hostile ->
				corrupted = true;
				setMark();
				endStream()
			:: rxTail > rxHead ->
				readOne();
				if
				:: rxTail > rxHead -> readOne()
				:: true
				fi
			:: rxTail == rxHead -> /* awaitData, or the deadline passes */
				if
				:: true
				:: !patient -> (isClosed || corrupted || rxTail > rxHead)
				fi
			fi
		fi;
		unlock(reading)
	fi;
	d_step { calls--; ok = false }
}

proctype CopyTo() {
	OWN;
	lock(reading);
	if
	:: !ok
	:: ok ->
		do
		:: isClosed || corrupted -> break
		:: !(isClosed || corrupted) ->
			if
			:: rxTail == rxHead -> break /* awaitData was left by the deadline */
			:: rxTail > rxHead -> n = rxTail - rxHead
			:: rxTail - rxHead > 1 -> n = 1 /* the bytes wrap around the end */
			fi;
#ifdef MUTANT_LENT_LENGTH
			d_step { rxLent = n; taken = rxHead + n }
#else
			d_step { rxLent = rxHead + n; taken = rxHead + n }
#endif
			lend(reading);
			if
			:: true
			:: !patient -> hasShut /* w.Write waits for that */
			fi;
			lent[reading] = false;
			if
			:: true
			:: ok = false; n-- /* it has not taken all */
			fi;
#ifdef MUTANT_SHORT_EARLY
			unread = !ok && isClosed;
#endif
#ifdef MUTANT_LENT_LENGTH
			d_step { rxLent = 0; taken = rxHead + n }
#else
			d_step { rxLent = rxHead + n; taken = rxHead + n }
#endif
#ifndef MUTANT_SHORT_EARLY
			unread = !ok && isClosed;
#endif
			if
			:: unread -> unread = false; endUnread()
			:: !unread
			fi;
			d_step { rxHead = rxHead + n; n = 0 }
			if
			:: want[writing] -> notify()
			:: else
			fi;
			if
			:: !ok -> break
			:: ok
			fi
		od;
		unlock(reading)
	fi;
	d_step { calls--; ok = false }
}

proctype CloseWrite() {
	OWN;
	if
	:: closed
	:: !closed ->
#ifndef MUTANT_STATE_LATE
		writeClosed = true;
		endStream()
#else
		postpone(writing, gateFin);
		writeClosed = true;
		if
		:: postponed -> postponed = false
		:: else -> tellEnd()
		fi
#endif
	fi;
	calls--
}

proctype Close() {
	OWN;
	if
	:: patient -> calls == 0
	:: !patient
	fi;
	closed = true;
	isClosed = true;
	shutdown()
}

/* Waits for what to become true, unless the deadline passes. */
inline await(k, what) {
	want[k] = true;
	if
	:: what
	:: !(what) -> woken[k]
	fi;
	d_step { want[k] = false; woken[k] = false }
}

proctype PeerRead() {
	bool e;
	do
	:: e = ended;
	   if
	   :: txTail > txHead -> txHead = txTail
	   :: txTail == txHead && e -> break
	   :: txTail == txHead && !e -> await(reading, txTail > txHead || ended)
	   fi
	od;
	if
	:: halfClose -> calls--
	:: !halfClose
	fi
}

proctype PeerWrite() {
	do
	:: rxTail == PEER_WRITES -> break
	:: rxClosed -> break /* the Write fails */
	:: rxTail < PEER_WRITES && !rxClosed && rxTail - rxHead < SIZE ->
		rxTail++;
		/* afterWrite */
		if
		:: rxClosed && rxTail != rxHead -> bytesLost = true
		:: !(rxClosed && rxTail != rxHead)
		fi
	:: rxTail < PEER_WRITES && !rxClosed && rxTail - rxHead >= SIZE ->
		if
		:: patient -> break /* the deadline passes */
		:: !patient -> await(writing, rxTail - rxHead < SIZE || rxClosed)
		fi
	od;
	calls--
}

inline aWriter(pieces) { calls++; if :: run Write(pieces) :: run CopyFrom(pieces) fi }
inline aReader() { calls++; if :: run Read(false) :: run Read(true) :: run CopyTo() fi }
inline thePeersReader() { run PeerRead(); calls = calls + halfClose }
inline aCloseWrite() {
	if
	:: true
	:: halfClose = true; calls++; run CloseWrite()
	fi
}

/* Three groups of goroutines: all of them at once have too many states. */
init {
	atomic {
		if :: patient = true :: true fi;
		run Close();
		if
		:: aReader(); calls++; run PeerWrite();
		   if :: linger = true :: true fi
		:: aWriter(2); aWriter(1); aCloseWrite(); thePeersReader()
		:: aWriter(2); aReader(); aCloseWrite(); rxTail = 1
		fi
	}
	_nr_pr == 1;
	assert(hasShut && ended);
	assert(!writeClosed || told > 0);
	if
	:: linger || corrupted -> assert(reset)
	:: !(linger || corrupted) ->
		assert(taken >= before || reset);
		assert(taken < rxTail || !reset)
	fi;
	assert(taken == rxTail || reset || bytesLost)
}
