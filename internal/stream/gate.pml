/*
 * gate.pml: the gate of a connection's end (gate.go): its two locks, the goroutines that
 * wait for them, its references, a view from Peek, and the release of the memory.
 *
 * Stands for
 *	word            gate.word
 *	bell            gate.waiters: channels that hold one token
 *	passed          deadline.passed, of the half that a lock belongs to
 *	lock to close   the gate's methods of the same names; unlockWith, leave and endPeek
 *	                with what End does next if the memory is to be let go of
 *	Read to Close   calls of an End, as far as they use the gate. Read stands for
 *	                Discard and CopyTo too; Expire is SetWriteDeadline and its timer
 *
 * Left out
 *	What is read and written: the memory is one thing, which is used. Whether bytes
 *	are unread is chosen at random. What an ending says to the peer, and the one of
 *	CloseWrite (gateFin), which the gate treats as it does gateShut, are in end.pml.
 *	Failed compare-and-swaps: a load and a compare-and-swap between which nothing else
 *	is looked at are one step here. One that fails leads back to the load.
 *
 * sync/atomic is sequentially consistent, so it is right to interleave the steps.
 *
 * Properties
 *	The memory is let go of once, never while a goroutine is inside or a view is out,
 *	and always in the end, given that a Read follows each Peek.
 *	Nobody waits for a lock for ever, whether the gate is closed or not. A goroutine
 *	whose deadline passes does not go on to wait for the holder of the lock.
 *	The shutdown is done once, by a goroutine that is inside.
 *
 * Mutants
 *	PEEKED_APART       old code: the view is a flag and a reference, taken in two steps
 *	PEEKED_LATE        Peek unlocks first and sets gatePeeked afterwards
 *	CLOSE_OUTSIDE      close does not enter
 *	LEAVE_BEFORE_END   unlock leaves though an ending is due
 *	NO_WAITERS_BIT     after waiting the lock is taken without the waiters' bit
 *	LATE_NO_RING       lock does not ring for the others when it fails at the deadline
 *	CLOSED_NO_RING     lock does not ring for the others when it finds the gate closed
 *	EXPIRED_NO_RING    the deadline passes without a ring
 *
 * check: safety
 * mutants: PEEKED_APART PEEKED_LATE CLOSE_OUTSIDE LEAVE_BEFORE_END NO_WAITERS_BIT LATE_NO_RING CLOSED_NO_RING EXPIRED_NO_RING
 */

#define reading 0
#define writing 1

#define gateClosed     1
#define gateLocked(k)  (2 << (k))
#define gateWaiters(k) (8 << (k))
#define gateLent(k)    (32 << (k))
#define gatePeeked     128
#define gateShut       256
#define gateRef        512

#define unused(v) (((v) & (gateClosed | gatePeeked)) == gateClosed && (v) < gateRef)

/* Who has waited does not know whether others wait. */
#ifndef MUTANT_NO_WAITERS_BIT
#define again(k) (waited -> gateWaiters(k) : 0)
#else
#define again(k) 0
#endif

int word;
chan bell[2] = [1] of { bit };
bool passed[2];

/* What the properties speak of. */
byte inside;    /* goroutines that may use the memory */
bool viewed;    /* a view is out */
byte released;
byte shutdowns;
byte calls;     /* that have not returned, but for Close */
byte writes;    /* of these, Writes */
bool expires;   /* the deadline is going to pass for good */
bool expired;   /* it has */

#ifdef MUTANT_PEEKED_APART
bool peeked; /* gatePeeked */
#endif

/*
 * What a process has for itself. It is false where it means nothing, to have fewer states.
 */
#define OWN int old; bool waited; byte res; bool due; bool yes

#define Locked 0
#define Ok     1
#define Closed 2
#define Late   3

/* The caller has used the memory until now. */
#define used assert(released == 0 && inside > 0)

inline ring(k) {
	d_step {
		if
		:: nfull(bell[k]) -> bell[k]!1
		:: full(bell[k])
		fi
	}
}

/* Peer.LetGo */
inline release() {
	d_step {
		assert(released == 0 && inside == 0 && !viewed);
		released++;
		yes = false
	}
}

inline lock(k) {
	do
	:: d_step {
		old = word;
		if
		:: old & gateClosed -> res = Closed
		:: !(old & gateClosed) && !(old & gateLocked(k)) ->
			word = (old | gateLocked(k) | again(k)) + gateRef;
			inside++;
			res = Ok
		:: else -> res = Locked
		fi
	   }
	   if
	   :: res == Ok -> break
	   :: res == Closed ->
#ifndef MUTANT_CLOSED_NO_RING
		ring(k);
#endif
		break
	   :: res == Locked && waited && passed[k] ->
#ifndef MUTANT_LATE_NO_RING
		ring(k);
#endif
		res = Late;
		break
	   :: res == Locked && !(waited && passed[k]) ->
		d_step {
			if
			:: old & gateWaiters(k) -> yes = true
			:: !(old & gateWaiters(k)) && word == old -> word = old | gateWaiters(k); yes = true
			:: else -> yes = false
			fi;
			old = 0
		}
		if
		:: yes ->
			atomic {
				bell[k]?_;
				waited = true;
				yes = false
			}
		:: !yes
		fi
	   fi
	od;
	atomic { old = 0; waited = false }
}

inline leave() {
	d_step {
		used;
		word = word - gateRef;
		inside--;
		yes = unused(word)
	}
	if
	:: yes -> release()
	:: !yes
	fi
}

/* If set is gatePeeked, a view is out from here on. */
inline unlockWith(k, set) {
	d_step {
		used;
		waited = (word & gateWaiters(k)) != 0;
		due = (word & gateShut) != 0;
		word = (word & ~(gateLocked(k) | gateWaiters(k) | gateLent(k) | gateShut)) | (set);
		viewed = viewed || (set) != 0;
		if
		:: due
		:: !due -> word = word - gateRef; inside--; yes = unused(word)
		fi;
#ifdef MUTANT_LEAVE_BEFORE_END
		if
		:: due -> word = word - gateRef
		:: !due
		fi
#endif
	}
	if
	:: waited -> ring(k); waited = false
	:: !waited
	fi
	if
	:: due ->
		due = false;
		shutdown();
#ifndef MUTANT_LEAVE_BEFORE_END
		leave()
#else
		d_step { used; inside-- }
#endif
	:: !due && yes -> release()
	:: !due && !yes
	fi
}

inline lend(k) {
	d_step {
		used;
		due = (word & gateShut) != 0;
		word = (word & ~gateShut) | gateLent(k)
	}
	if
	:: due -> due = false; shutdown()
	:: !due
	fi
}

/* Says yes if the gate is closed. */
inline resume(k) {
	d_step {
		used;
		yes = (word & gateClosed) != 0;
		word = word & ~gateLent(k)
	}
}

/* Says yes if a busy holder will do it. */
inline postpone(k, what) {
	d_step {
		used;
		yes = (word & gateLocked(k)) && !(word & gateLent(k));
		if
		:: yes -> word = word | what
		:: !yes
		fi
	}
}

/* End.shutdown */
inline shutdown() {
	postpone(writing, gateShut);
	if
	:: yes
	:: !yes -> skip /* nothing is unread */
	:: !yes -> postpone(reading, gateShut)
	fi
	d_step {
		if
		:: yes -> yes = false
		:: !yes -> used; shutdowns++
		fi
	}
}

/* End.lockRead */
inline lockRead() {
	lock(reading);
	if
	:: res == Late
	:: res != Late -> endPeek()
	fi
}

#ifndef MUTANT_PEEKED_APART

inline endPeek() {
	d_step {
		yes = (word & gatePeeked) != 0;
		if
		:: yes -> word = word & ~gatePeeked; viewed = false; yes = unused(word)
		:: !yes
		fi
	}
	if
	:: yes -> release()
	:: !yes
	fi
}

inline unlockPeeked() {
#ifdef MUTANT_PEEKED_LATE
	unlockWith(reading, 0);
	d_step { word = word | gatePeeked; viewed = true }
#else
	unlockWith(reading, gatePeeked)
#endif
}

#else

inline endPeek() {
	d_step { yes = peeked; peeked = false; viewed = viewed && !yes }
	if
	:: yes ->
		d_step { word = word - gateRef; yes = unused(word) }
		if
		:: yes -> release()
		:: !yes
		fi
	:: !yes
	fi
}

inline unlockPeeked() {
	d_step { yes = !peeked; peeked = true; viewed = true }
	if
	:: yes -> d_step { word = word + gateRef; yes = false }
	:: !yes
	fi
	unlockWith(reading, 0)
}

#endif

chan looked = [0] of { bit };

proctype Read() {
	OWN;
	lockRead();
	if
	:: res == Ok -> unlockWith(reading, 0)
	:: res != Ok
	fi
	d_step { calls--; res = 0 }
}

proctype Peek() {
	OWN;
	lockRead();
	if
	:: res == Ok -> unlockPeeked()
	:: res != Ok
	fi
	looked!1;
	d_step { calls--; res = 0 }
}

/* The Read that follows Peek, by another goroutine. */
proctype ReadAfter() {
	OWN;
	looked?_;
	lockRead();
	if
	:: res == Ok -> unlockWith(reading, 0)
	:: res != Ok
	fi
	d_step { calls--; res = 0 }
}

proctype Write() {
	OWN;
	lock(writing);
	if
	:: res == Ok -> unlockWith(writing, 0)
	:: res != Ok
	fi
	d_step { calls--; writes--; res = 0 }
}

/* Reserve and Commit. In between the program may wait until its Writes have failed. */
proctype Reserve() {
	OWN;
	lock(writing);
	if
	:: res != Ok
	:: res == Ok ->
		if
		:: passed[writing]
		:: !passed[writing] ->
			lend(writing);
			if
			:: skip
			:: expires -> expired && writes == 0
			fi
			resume(writing);
			yes = false
		fi
		unlockWith(writing, 0)
	fi
	d_step { calls--; res = 0 }
}

inline expire(k) {
	passed[k] = true;
#ifndef MUTANT_EXPIRED_NO_RING
	ring(k)
#endif
}

/* The deadline passes, is moved, and passes again. */
proctype Expire() {
	expire(writing);
	passed[writing] = false;
	expire(writing);
	expired = true
}

/* Close comes at any moment, or when all the other calls have returned. */
proctype Close() {
	OWN;
	if
	:: skip
	:: true -> calls == 0
	fi
	d_step {
		yes = !(word & gateClosed);
		if
		:: yes -> word = (word | gateClosed) + gateRef; inside++
		:: !yes
		fi;
#ifdef MUTANT_CLOSE_OUTSIDE
		if
		:: yes -> word = word - gateRef
		:: !yes
		fi
#endif
	}
	if
	:: yes ->
		yes = false;
		shutdown();
		ring(reading);
		ring(writing);
#ifdef MUTANT_CLOSE_OUTSIDE
		d_step { word = word + gateRef }
#endif
		leave()
	:: !yes
	fi
}

/* Three groups of goroutines: all of them at once have too many states. */
init {
	atomic {
		if
		:: calls = 3; run Read(); run Peek(); run ReadAfter(); run Close(); run Close()
		:: calls = 3; writes = 2; run Write(); run Write(); run Reserve(); run Close();
			if
			:: expires = true; run Expire()
			:: skip
			fi
		:: calls = 3; run Peek(); run ReadAfter(); run Reserve(); run Close()
		fi
	}
	_nr_pr == 1;
	assert(released == 1 && shutdowns == 1)
}
