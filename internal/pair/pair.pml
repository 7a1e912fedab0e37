/*
 * pair.pml: a dialing application's pairs with one listener (client_linux.go,
 * pair_linux.go): how Dials find one or attach anew, what ends one, and what keeps its
 * memory until then.
 *
 * Stands for
 *	current, attaching   Host.clients and Host.attaching, for the listener; mu and
 *	                     closed are Host's too
 *	dialing, uses, dead, refs   those of a client and of its pair
 *	inUse, poolClosed    of its Pool, each guarded by the pool's own lock
 *	deadline, since      its idleTimer: whether that runs, and uses
 *	hung                 its control channel has ended: at the peer's side, or here
 *	Dial                 Host.Dial, Host.client, client.connect and done; then the
 *	                     connection, until Dialed.LetGo. The first one attaches, as there
 *	                     is no pair yet
 *	attach               Host.attach, from begin on
 *	Read                 client.read, idle, and what follows when the channel has ended
 *	Cleanup              what pair.die has the worker do
 *	Ring                 the goroutine of pair.notifyApart
 *	Hangup, AppClose     the peer ends a channel; Host.Close
 *
 * Left out
 *	The timer's own lock, limbo, and times: idle.pml.
 *	The answer to a Dial: slot.pml. It is made, or the Dial fails. A handshake that fails
 *	leaves no pair behind.
 *
 * sync/atomic is sequentially consistent, so it is right to interleave the steps.
 *
 * Properties
 *	A pair is never ended for being idle while a connection is open, nor under a Dial: a
 *	Dial that has found a pair does not find it ended for that.
 *	Each pair's memory is freed, once, and after all who use it have left.
 *	A Dial that finds the pair at its end attaches anew. It fails for that only if the peer
 *	has ended two pairs under it, or the application is closed.
 *	In the end no Dial finds a pair that has ended.
 *
 * Mutants
 *	DIAL_UNCOUNTED  a Dial counts itself after it has let go of Host.mu
 *	LOOK_UNLOCKED   idle looks for Dials, lets go of Host.mu, and forgets the pair then
 *	REF_BLIND       a reference is added though there was none left
 *	UNREF_EARLY     the worker drops the pair's reference, then removes the source
 *	POST_LATE       a connection that is let go drops its reference, then notifies
 *	RING_UNCOUNTED  the goroutine that rings for it has no reference of its own
 *	RETIRE_NOT      a Dial that finds the pair at its end leaves it where Dials find it
 *	READ_KEEPS      a pair that has ended stays there
 *
 * check: safety
 * mutants: DIAL_UNCOUNTED LOOK_UNLOCKED REF_BLIND UNREF_EARLY POST_LATE RING_UNCOUNTED RETIRE_NOT READ_KEEPS
 */

#define N 4 /* pairs that are made, and 1 */

/* Host */
bool mu, closed, attaching;
byte current;

/* The pairs, from 1 on. */
byte dialing[N], uses[N], inUse[N], refs[N], since[N];
bool deadline[N], dead[N], poolClosed[N], hung[N];

/* What the properties speak of. */
byte pairs;     /* that were made */
bool freed[N];
bool idled[N];  /* ended for being idle */
byte hangups;   /* by the peer */

/* What may happen beside Dials. All of it at once has too many states. */
bool retires;   /* the listener says that it is gone: kindRetire */
bool rings;     /* there is to be rung when a connection is released */

#define using(p) assert(!freed[p] && refs[p] > 0)

inline unref(p) {
	d_step {
		using(p);
		refs[p]--;
		freed[p] = (refs[p] == 0)
	}
}

/* client.linger. On a pair that is dead it has no effect. */
inline linger(p) {
	d_step {
		if
		:: !deadline[p] && !dead[p] -> deadline[p] = true; since[p] = uses[p]
		:: else
		fi
	}
}

inline forget(p) {
	if
	:: current == p -> current = 0
	:: else
	fi
}

/* Where mu is held for one step only, that step is taken while it is free. */

inline retire(p) {
	d_step { !mu -> forget(p) }
}

/* pair.die, then Pool.Close and Host.end */
inline end(p) {
	atomic { dead[p] = true; hung[p] = true; run Cleanup(p) }
	poolClosed[p] = true
}

proctype Cleanup(byte p) {
	/* Until here the worker looks at the bitmap. */
#ifdef MUTANT_UNREF_EARLY
	unref(p);
	using(p)
#else
	unref(p)
#endif
}

/* Sets ok if the pair is to be ended. */
inline idle(p) {
	d_step { deadline[p] = false; at = since[p]; since[p] = 0 }
	d_step { !mu -> mu = true }
	if
	:: dialing[p] > 0
	:: dialing[p] == 0 ->
#ifdef MUTANT_LOOK_UNLOCKED
		mu = false;
		d_step { !mu -> mu = true }
#endif
		if
		:: inUse[p] > 0
		:: inUse[p] == 0 ->
			if
			:: uses[p] != at -> linger(p)
			:: uses[p] == at -> d_step { assert(inUse[p] == 0); forget(p); idled[p] = true; ok = true }
			fi
		fi
	fi;
	atomic { mu = false; at = 0 }
}

proctype Read(byte p) {
	byte at;
	bool ok;
	do
	:: hung[p] -> break
	:: !hung[p] && deadline[p] ->
		idle(p);
		if
		:: ok -> break
		:: !ok
		fi
	:: !hung[p] && retires -> retires = false; retire(p)
	od;
	/* Nobody looks at what is cleared here any more. */
	atomic { dead[p] = true; deadline[p] = false; since[p] = 0; uses[p] = 0 }
#ifndef MUTANT_READ_KEEPS
	retire(p);
#endif
	end(p)
}

/* Sets p, with the Dial counted; 0 if the application is closed. */
inline attach() {
	d_step { /* Host.begin */
		!mu ->
		if
		:: closed
		:: else -> pairs++; p = pairs; dialing[p] = 1; refs[p] = 1
		fi
	}
	if
	:: p == 0
	:: p != 0 ->
		d_step { /* register */
			!mu ->
			if
			:: closed
			:: else -> current = p; ok = true
			fi
		}
		if
		:: ok -> ok = false; run Read(p)
		:: !ok -> end(p); p = 0
		fi
	fi;
	d_step { !mu -> attaching = false }
}

/* Host.client. Sets p likewise. */
inline client() {
	do
	:: d_step { !mu && closed -> skip } break
#ifdef MUTANT_DIAL_UNCOUNTED
	:: d_step { !mu && !closed && current != 0 -> p = current }
	   dialing[p]++;
	   break
#else
	:: d_step { !mu && !closed && current != 0 -> p = current; dialing[p]++ } break
#endif
	:: d_step { !mu && !closed && current == 0 && !attaching -> attaching = true }
	   attach();
	   break
	od
}

/* pair.ref */
#ifdef MUTANT_REF_BLIND
#define canRef(p) true
#else
#define canRef(p) (refs[p] > 0)
#endif

proctype Ring(byte p) {
#ifdef MUTANT_RING_UNCOUNTED
	using(p)
#else
	unref(p)
#endif
}

/* Dialed.LetGo */
inline release(p) {
	d_step { /* Pool.Free */
		using(p);
		inUse[p]--;
		ok = (inUse[p] == 0)
	}
	if
	:: ok -> ok = false; linger(p)
	:: !ok
	fi;
#ifdef MUTANT_POST_LATE
	unref(p);
	using(p)
#else
	if
	:: true
	:: atomic { rings ->
#ifndef MUTANT_RING_UNCOUNTED
		refs[p]++;
#endif
		run Ring(p)
	   }
	fi;
	unref(p)
#endif
}

/* client.connect. Sets retired, or made if there is a connection. */
inline connect(p) {
	assert(!idled[p]);
	uses[p] = (dead[p] -> 0 : uses[p] + 1);
	d_step {
		ok = canRef(p);
		if
		:: ok -> refs[p]++
		:: else
		fi
	}
	if
	:: !ok -> retired = true
	:: ok ->
		ok = false;
		d_step { /* Pool.Alloc */
			retired = poolClosed[p];
			inUse[p] = inUse[p] + !retired
		}
		if
		:: retired -> unref(p)
		:: !retired ->
			if
			:: made = true
			:: release(p) /* its context ends */
			:: dead[p] -> retired = true; release(p)
			fi
		fi
	fi
}

/* client.done */
inline done(p) {
	d_step { !mu -> dialing[p]-- }
	if
	:: inUse[p] == 0 -> linger(p)
	:: inUse[p] != 0
	fi
}

proctype Dial(bool first) {
	byte p;
	bool ok, made, retired, again;
	do
	:: if
	   :: first -> first = false; attach()
	   :: !first -> client()
	   fi;
	   if
	   :: p == 0 -> break
	   :: p != 0 ->
		connect(p);
		done(p);
		if
		:: !retired -> break
		:: retired && !again ->
#ifndef MUTANT_RETIRE_NOT
			retire(p);
#endif
			d_step { again = true; retired = false; p = 0 }
		:: retired && again -> assert(hangups > 1 || closed); break
		fi
	   fi
	od;
	if
	:: made -> release(p)
	:: !made
	fi
}

proctype Hangup() {
	d_step {
		if
		:: current != 0 && !hung[current] -> hung[current] = true; hangups++
		:: else
		fi
	}
}

proctype AppClose() {
	byte p;
	d_step {
		!mu -> closed = true;
		p = 1;
		do
		:: p <= pairs -> hung[p] = true; p++
		:: else -> break
		od;
		p = 0
	}
}

init {
	byte p;
	atomic {
		attaching = true;
		run Dial(true);
		run Dial(false);
		if
		:: retires = true; rings = true
		:: run Hangup()
		:: run AppClose()
		fi
	}
	_nr_pr == 1;
	assert(current == 0);
	do
	:: p < pairs -> p++; assert(freed[p] && refs[p] == 0 && inUse[p] == 0)
	:: else -> break
	od
}
