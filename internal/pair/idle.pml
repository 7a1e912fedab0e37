// Idle: a pair that nobody uses is ended, and one that is used is not.
//
// What it stands for: the client's side of a pair. Dials (Host.client, client.connect,
// client.done), their connections (Dialed.LetGo, Pool.Free), the timer (client.linger,
// client.idle, idleTimer.start and stop), the goroutine that reads the control channel
// (client.read, pair.die with its Cleanup) and the references to the pair's memory
// (pair.ref, pair.unref). The names are those of the code.
//
// What it leaves out, and why that is sound:
//   - Plain memory. Every step is one operation of sync/atomic, which is sequentially
//     consistent, or is guarded by a lock (Host.mu, Pool.mu, idleTimer.mu) for as long
//     as it takes, so interleaving is all that can happen.
//   - What a Dial waits for: it either gets its connection or fails, and a connection stays
//     open as long as it likes.
//   - The handshake of a pair that is attached anew: a Dial that needs one is through.
//   - The time. The timer fires at any moment once it is set.
//
// What holds: a pair is never ended by its timer while a Dial or a connection uses it; its
// memory is freed once, and not while anybody has a reference; and when nothing more can
// happen, an idle pair has been ended, and freed. If a connection stays open (CASE_OPEN),
// then the slots that the server has let go of have been reaped instead.
//
// check: safety
// cases: ALL OPEN
// mutants: TWO_STEPS NO_LINGER_IN_DONE NO_LINGER_IN_FREE IDLE_IGNORES_DIALING
// mutants: IDLE_IGNORES_POOL FORGET_UNLOCKED REF_WITHOUT_LOOK STOP_AFTER_LOOK LIMBO_NOT_AGAIN
// mutants: LIMBO_ONLY_IN_USE

#define DIALS 2

// Host.mu and what it guards
bit mu;
bit registered = 1; // Host.clients has the pair
byte dialing = 1;   // the Dial that attached

// Pool
byte inUse, limbo, letGo; // letGo: slots in limbo that the server has let go of

// idleTimer
bit running, deadline;
byte uses, startedAt;

// pair
byte refs = 1;
bit dead, freed, closed; // closed: the control channel's other end

byte connections; // open
byte busy;        // Dials and connections that have not ended

inline lock(m) { atomic { !m -> m = 1 } }
inline unlock(m) { m = 0 }

// client.linger: idleTimer.start looks before it takes the mutex.
inline linger() {
	if
	:: running
	:: else ->
		atomic {
			if
			:: running
			:: else -> running = 1; startedAt = uses; deadline = 1
			fi
		}
	fi
}

inline unref() {
	atomic {
		assert(refs > 0);
		refs--;
		if
		:: refs == 0 -> assert(!freed); freed = 1
		:: else
		fi
	}
}

// A connection is closed: Pool.Free, and then linger if it says so.
inline release(later) {
	atomic {
		assert(inUse > 0);
		inUse--;
		if
		:: limbo++; later = 1 // the server has not let go
		:: later = (inUse == 0)
		fi
	}
#ifndef MUTANT_NO_LINGER_IN_FREE
	if
	:: later -> linger()
	:: else
	fi;
#endif
	assert(!freed);
	unref()
}

proctype Dial(bit attached) {
	bit later, open;

	// Host.client
	if
	:: attached
	:: else ->
		lock(mu);
		if
		:: registered -> dialing++; unlock(mu)
		:: else -> unlock(mu); goto through // attaches anew
		fi
	fi;
	// client.connect
	uses++;
	atomic {
#ifdef MUTANT_REF_WITHOUT_LOOK
		refs++; open = 1
#else
		if
		:: refs > 0 -> refs++; open = 1
		:: skip // retired, or a limit was reached
		fi
#endif
	}
	if
	:: open ->
		assert(!freed);
		inUse++; // Pool.Alloc
		atomic { connections++ }
	:: else
	fi;
	// client.done
	lock(mu);
	dialing--;
	unlock(mu);
#ifndef MUTANT_NO_LINGER_IN_DONE
	if
	:: inUse == 0 -> linger()
	:: else
	fi;
#endif
	if
	:: open ->
#ifdef CASE_OPEN
		if
		:: attached -> goto through // for good
		:: else
		fi;
#endif
		connections--;
		release(later)
	:: else
	fi;
through:
	busy--
}

// The server lets go of slots, some time after the client.
active proctype Server() {
end:
	do
	:: atomic { letGo < limbo -> letGo++ }
	od
}

// The peer may also end the pair, or die, at any moment, or never.
active proctype Peer() {
	if
	:: closed = 1
	:: skip
	fi
}

// client.read
active proctype Read() {
	byte at;
	bit again;
end:
	do
	:: atomic { deadline -> skip }
		// client.idle
#if defined(MUTANT_TWO_STEPS)
		running = 0;
		at = startedAt;
		deadline = 0;
#elif !defined(MUTANT_STOP_AFTER_LOOK)
		atomic { running = 0; deadline = 0; at = startedAt }
#endif
		atomic { limbo = limbo - letGo; letGo = 0; again = (limbo > 0) } // Pool.Reap
#ifndef MUTANT_FORGET_UNLOCKED
		lock(mu);
#endif
		if
#if defined(MUTANT_IDLE_IGNORES_DIALING)
		:: inUse > 0 ->
#elif defined(MUTANT_IDLE_IGNORES_POOL)
		:: dialing > 0 ->
#elif defined(MUTANT_LIMBO_ONLY_IN_USE)
		:: dialing > 0 -> skip
		:: dialing == 0 && inUse > 0 ->
#else
		:: dialing > 0 || inUse > 0 ->
#endif
#ifndef MUTANT_LIMBO_NOT_AGAIN
			if
			:: again -> linger()
			:: else
			fi
#else
			skip
#endif
		:: else ->
			if
			:: uses != at -> linger()
			:: else ->
				registered = 0; // client.forget
				assert(dialing == 0 && connections == 0);
				unlock(mu);
				break
			fi
		fi;
#ifdef MUTANT_STOP_AFTER_LOOK
		atomic { running = 0; deadline = 0; at = startedAt };
#endif
		unlock(mu)
	:: closed -> break
	od;
	dead = 1;
	lock(mu);
	registered = 0;
	unlock(mu);
	// pair.die: the worker's Cleanup, after which nobody but Dials and connections has the
	// memory.
	unref()
}

init {
	byte i;
	atomic {
		busy = DIALS;
		run Dial(1);
		i = 1;
		do
		:: i < DIALS -> run Dial(0); i++
		:: else -> break
		od
	}
	// When nothing more can happen.
	timeout;
#ifdef CASE_OPEN
	assert(closed || freed || connections == 1 && letGo == 0);
#else
	assert(busy == 0 && connections == 0 && dialing == 0);
	assert(!registered && freed);
#endif
}
