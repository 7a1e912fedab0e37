// Sleeping, and polling on the worker's behalf: no event lies in a bitmap for ever while
// the worker sleeps.
//
// What it stands for: Remote.Notify (with ring) by two goroutines, which share one
// Remote or are of two peers; Bitmap.Set and Take; Worker.run with take, park and
// pending; takeOver, deliver and giveBack by goroutines that spin; polling with its
// transitions, except from and to workerStopped; epoll.wait. The names are the code's.
//
// epoll.wait: a ring is an edge, which the runtime notices some time later (edge becomes
// ready). RawConn.Read arms, which forgets what was noticed, then calls its function,
// and then parks until something is noticed.
//
// A doorbell is a socket: a ring puts a byte into its queue, and makes no edge if the queue
// is full, which here it is with one byte. Then the peer sends a message on the control
// channel, or none if that has one already. Its reader receives the message, empties the
// queue and kicks the worker. The peer sends no second message before a byte has found room.
//
// What it leaves out, and why that is sound:
//   - Plain memory. Every step is one operation of sync/atomic, which is sequentially
//     consistent, or is guarded by a lock, so interleaving is all that can happen. Where
//     a lock guards nothing but what its holder does in one step, that step stands for
//     all; and the delivery lock is locked and unlocked together with the first and the
//     last access.
//   - That the sleep word counts. What matters is that no setter remembers the number of a
//     new sleep, so announce chooses the least such number, which keeps the number of
//     states small. The even numbers are all 0: no setter compares them.
//   - The bitmap's third level, and passes that leave bits set: bitmap.pml.
//   - Sources that come and go, and what else a worker does for them: source.pml.
//   - Bytes that a hostile peer puts into a queue: it fills that of its own doorbell only.
//   - How long a goroutine spins, and whether the worker makes another pass at once after
//     one that delivered events: the model searches every choice.
//
// What holds: when nothing more can happen, the worker is parked, every event for which a
// bit was set (todo) was handled, and no goroutine holds the delivery lock. And that state
// is always reached.
//
// check: safety progress
// cases: SHARED TWO_PEERS TWO_SPINNERS
// mutants: ANNOUNCE_THEN_ARM NO_LOOK SLEEP_NOT_ENDED WORD_IS_A_FLAG WORD_BEFORE_BIT
// mutants: RINGS_FORGOTTEN TOP_BEFORE_LEAF LEAF_BEFORE_TOP HANDLE_BEFORE_CLEAR
// mutants: GIVE_BACK_WITHOUT_LOOK GIVE_BACK_SAYS_NOTHING RING_FOR_OLD_SLEEP FULL_IS_LOST
// mutants: EMPTIED_WITHOUT_KICK

// Each of the two goroutines has a slot and a leaf word of its own.
#ifdef CASE_TWO_PEERS
#define PEER(slot) slot
#define BIT(slot) 1
#else
#define PEER(slot) 0
#define BIT(slot) (1 << (slot))
#endif

// Source.Events of each peer
byte top[2];
bit leaf[2];
bit todo[2]; // the events for which the bits were set

// Remote of each peer
byte rung[2], rings[2];
byte word[2]; // each goroutine's variable sleep

// Whether the doorbell's queue, and the control channel, of each peer are full
bit queue[2], message[2];
bit told[2]; // Remote.full

// Worker
bit delivery; // the lock

// polling
byte sleep;    // the word
bit asleep;    // worker is workerAsleep; otherwise it is workerAwake
bit takenOver;

// epoll
bit edge, ready;

// setBit leaves a word alone whose bit is set, which is as good as to set it. If the bit is
// not set, then the load and the Or are one step here, as no other goroutine sets this bit.
inline setLeaf(slot) { leaf[slot] = 1 }
inline setTop(slot) { top[PEER(slot)] = top[PEER(slot)] | BIT(slot) }

// Remote.Notify, some times
proctype setter(bit slot; byte times) {
	byte n;
	bit overflow;
again:
	// Notify
#ifdef MUTANT_WORD_BEFORE_BIT
	word[slot] = sleep;
#endif
#ifdef MUTANT_TOP_BEFORE_LEAF
	atomic { todo[slot] = 1; setTop(slot) }
	setLeaf(slot);
#else
	atomic { todo[slot] = 1; setLeaf(slot) }
	setTop(slot);
#endif
#ifndef MUTANT_WORD_BEFORE_BIT
	word[slot] = sleep;
#endif
	if
	:: word[slot] & 1
	:: else -> goto done
	fi;
	if
	:: rung[PEER(slot)] == word[slot] -> goto done
	:: else
	fi;
	// ring
	atomic { // Add
		rings[PEER(slot)]++;
		n = rings[PEER(slot)];
		if
		:: n > 1 -> goto done // another goroutine rings
		:: else
		fi
	}
	do
	::
#ifndef MUTANT_RING_FOR_OLD_SLEEP
		word[slot] = sleep;
#endif
		if
		:: word[slot] & 1 && rung[PEER(slot)] != word[slot] ->
			rung[PEER(slot)] = word[slot];
			atomic { // send
				if
				:: !queue[PEER(slot)] -> queue[PEER(slot)] = 1; edge = 1; told[PEER(slot)] = 0
				:: else -> overflow = 1
				fi
			}
			if
			:: overflow && !told[PEER(slot)] ->
				told[PEER(slot)] = 1; overflow = 0;
#ifndef MUTANT_FULL_IS_LOST
				message[PEER(slot)] = 1
#endif
			:: else -> overflow = 0
			fi
		:: else
		fi;
#ifdef MUTANT_RINGS_FORGOTTEN
		rings[PEER(slot)] = 0;
		break
#else
		atomic { // CompareAndSwap
			if
			:: rings[PEER(slot)] == n -> rings[PEER(slot)] = 0; break
			:: else
			fi
		}
		n = rings[PEER(slot)]
#endif
	od;
done:
	atomic {
		word[slot] = 0; n = 0; times--;
		if
		:: times > 0 -> goto again
		:: else
		fi
	}
}

// takeLeaf takes the bit of slot from its word, and calls the handler.
inline takeLeaf(slot) {
#ifdef MUTANT_HANDLE_BEFORE_CLEAR
	if
	:: bits & BIT(slot) && leaf[slot] -> todo[slot] = 0; events = true; leaf[slot] = 0
	:: else
	fi
#else
	atomic { // Swap
		if
		:: bits & BIT(slot) && leaf[slot] -> leaf[slot] = 0; got = true
		:: else
		fi
	}
	if
	:: got -> atomic { todo[slot] = 0; events = true; got = false }
	:: else
	fi
#endif
}

// takeTop takes all bits from the upper word.
inline takeTop(peer) {
#ifdef MUTANT_LEAF_BEFORE_TOP
	bits = top[peer]
#else
	atomic { bits = top[peer]; top[peer] = 0 } // Swap
#endif
}

// Worker.take, from delivery.Lock on. The caller unlocks it.
inline take() {
	atomic { !delivery -> delivery = 1; takeTop(0) }
	takeLeaf(0);
#ifdef CASE_TWO_PEERS
	takeTop(1);
#endif
	takeLeaf(1);
#ifdef MUTANT_LEAF_BEFORE_TOP
	top[0] = 0;
	top[1] = 0;
#endif
	bits = 0
}

// Worker.pending
inline pending() {
#ifdef CASE_TWO_PEERS
	atomic { !delivery -> delivery = 1; found = top[0] > 0 }
	atomic { found = found || top[1] > 0; delivery = 0 }
#else
	atomic { !delivery -> found = top[0] > 0 }
#endif
}

#define remembered(n) (rung[0] == n || rung[1] == n || word[0] == n || word[1] == n)

// polling.announce
inline announce() {
	d_step {
		if
		:: asleep && !takenOver && !sleep ->
			sleep = 1;
#ifndef MUTANT_WORD_IS_A_FLAG
			do
			:: remembered(sleep) -> sleep = sleep + 2
			:: else -> break
			od
#endif
		:: !(asleep && !takenOver) -> sleep = 0
		:: else
		fi
	}
}

// polling.setWorker
#define AWAKE 0
#define ASLEEP 1
inline setWorker(state) { atomic { asleep = state; announce() } }

// Worker.run
active proctype worker() {
	byte bits;
	bool got, events, found;
pass:
	take();
	atomic {
		delivery = 0;
		if
		:: events -> events = false; goto pass
		:: events = false
		fi
	}
	// park
#ifdef MUTANT_ANNOUNCE_THEN_ARM
	setWorker(ASLEEP);
	pending();
	if
	:: found -> goto awake
	:: else
	fi;
	ready = 0;
#else
	ready = 0; // arm
	setWorker(ASLEEP);
#endif
#ifndef MUTANT_NO_LOOK
	pending();
	if
	:: found -> goto awake
	:: else
	fi;
#endif
end_parked:
	ready -> ready = 0;
awake:
	atomic {
		found = false;
#ifndef MUTANT_SLEEP_NOT_ENDED
		setWorker(AWAKE);
#endif
		goto pass
	}
}

// What Spin.poll does for a worker: takeover
proctype spinner() {
	byte bits;
	bool got, events, found;
	atomic { // takeOver
		if
		:: !takenOver -> takenOver = 1; announce()
		:: else -> goto done
		fi
	}
deliver:
	if
	:: take();
		atomic {
			delivery = 0;
			if
			:: events -> events = false; goto deliver
			:: events = false
			fi
		}
	:: true // TryLock failed, or no more looks
	fi;
	// giveBack
	atomic {
		takenOver = 0;
#ifndef MUTANT_GIVE_BACK_SAYS_NOTHING
		announce()
#endif
	}
#ifndef MUTANT_GIVE_BACK_WITHOUT_LOOK
	pending();
	atomic { // wake
		if
		:: found && asleep -> edge = 1
		:: else
		fi
	}
#endif
done:
	found = false
}

// The reader of a control channel: Doorbell.Empty, and the kick
proctype reader(bit peer) {
end:	do
	:: message[peer] ->
		message[peer] = 0;
		queue[peer] = 0;
#ifndef MUTANT_EMPTIED_WITHOUT_KICK
		atomic { // wake
			if
			:: asleep -> edge = 1
			:: else
			fi
		}
#endif
	od
}

// The runtime's network poller
active proctype netpoll() {
end:	do
	:: atomic { edge -> edge = 0; ready = 1 }
	od
}

active proctype final() {
	timeout ->
	assert(!todo[0] && !todo[1]);
	assert(asleep && !takenOver && !delivery)
}

init {
	atomic {
		run reader(0);
#ifdef CASE_TWO_PEERS
		run reader(1);
#endif
		run setter(0, 2);
		run spinner();
#ifdef CASE_TWO_SPINNERS
		run spinner()
#else
		run setter(1, 1)
#endif
	}
}
