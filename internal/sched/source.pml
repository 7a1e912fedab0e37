// Sources that come and go, work and ends that are scheduled, and the worker's end.
//
// What it stands for: Worker.Add, Remove, Schedule, End, wake, run, pass, park, pending and
// stop; takeOver, deliver and giveBack of a goroutine that spins; polling with all its
// transitions; Group.Wait. The first source goes as a pair does that dies: it is ended, and
// its Cut removes it. The second one is removed by a goroutine of its own. Each may come
// when the worker is awake, asleep or stopped. The first event of the first source has its
// handler schedule work, as one does for a Dial.
//
// What it leaves out, and why that is sound:
//   - Plain memory: each step is one operation of sync/atomic, which is sequentially
//     consistent, or is guarded by a lock.
//   - The levels of the bitmap: bitmap.pml. A source has a single bit.
//   - The sleep word's number, and that a peer rings once a sleep: sleep.pml. A peer rings
//     here whenever the word is odd, if its doorbell is in epoll.
//   - How many events a pass takes. A pass may leave an event, but not the next one: Take goes
//     round the slots, so a number of passes, here LEAVE + 1, has met each slot.
//   - How many calls of Work and Cut there are until nothing is left.
//
// What holds: once Remove has returned, the source's handler is not called, and its bitmap
// not touched. An event that was set before a source was ended is handled before Cut is
// called. Cut is called after LEAVE + 1 passes, however many events there are. When nothing
// more can happen, all that was scheduled was done, all events of the sources that were not
// removed were handled, and the worker, which has no source any more, is stopped. The sleep
// word does not change after Group.Wait has returned.
//
// check: safety
// cases: ONE TWO TWO_AND_SPINNER
// mutants: SCHEDULE_WITHOUT_WAKE PENDING_WITHOUT_QUEUED PENDING_WITHOUT_LIST
// mutants: REMOVE_WITHOUT_LOCK PENDING_WITHOUT_LOCK REMOVE_WITHOUT_KICK
// mutants: STOP_WITH_SOURCES WORK_AFTER_EVENTS CUT_DESPITE_MORE SCHEDULE_REMOVED
// mutants: ENDED_MEANWHILE

#define LEAVE 1

// Source.Events, and the event for which its bit is set
bit event[2];
bit todo[2]; // the event is not handled yet
bit told[2]; // and its Set has returned
bit before[2]; // and after that the source was ended
bit left[2]; // the last pass has left the event

// Worker
byte sources; // a bit for each source; the list is replaced as a whole
bit delivery, mu; // the locks
byte due; // the sources that are scheduled: a bit for each
byte ending; // and of these, those that were ended
byte group; // Group.running

// polling
bit sleep;  // whether the word is odd
byte state; // worker
bit takenOver;
#define STOPPED 0
#define AWAKE 1
#define ASLEEP 2

// epoll
byte bells; // the doorbells in it: a bit for each source
bit edge, ready;

byte gone; // Source.removed, of each source
byte removed; // sources for which Remove has returned
bit requested, worked, waited;

#define BIT(s) (1 << (s))
#ifdef CASE_ONE
#define ALL BIT(0)
#else
#define ALL (BIT(0) | BIT(1))
#endif

inline lock(l) { atomic { !l -> l = 1 } }

// polling.announce, with mu held
inline announce() {
	assert(!waited || sleep == (state == ASLEEP && !takenOver));
	sleep = state == ASLEEP && !takenOver
}

// polling.setWorker, with mu held
inline setWorker(newState) { state = newState; announce() }

// Worker.wake, with mu held
inline wake() {
	if
	:: state == ASLEEP -> edge = 1
	:: else
	fi
}

// Worker.Schedule, and with end Worker.End
inline schedule(s, end) {
	atomic {
		!mu ->
		if
#ifndef MUTANT_SCHEDULE_REMOVED
		:: !(gone & BIT(s)) ->
#else
		:: true ->
#endif
			due = due | BIT(s);
			ending = ending | (end -> BIT(s) : 0);
#ifndef MUTANT_SCHEDULE_WITHOUT_WAKE
			wake()
#endif
		:: else
		fi
	}
}

// A part of Take, and the handler. It leaves the event in the bitmap if the pass has taken
// as many events as it may.
inline take(s) {
	if
	:: list & BIT(s) ->
		atomic {
			assert(!(removed & BIT(s)));
			if
			:: event[s] -> event[s] = 0; left[s] = 0; events = true
			:: event[s] && !left[s] -> left[s] = 1; more = true
			:: !event[s]
			fi
		}
		if
		:: events ->
			atomic {
				assert(!(removed & BIT(s)));
				todo[s] = 0; told[s] = 0; before[s] = 0;
				handled = true
			}
			if
			:: s == 0 && !requested -> requested = 1; schedule(s, false)
			:: else
			fi;
			events = false
		:: else
		fi
	:: else
	fi
}

// Worker.pending
inline pending() {
#ifndef MUTANT_PENDING_WITHOUT_QUEUED
	found = due > 0;
#endif
	if
	:: !found ->
#ifndef MUTANT_PENDING_WITHOUT_LOCK
		lock(delivery);
#endif
		list = sources;
#ifndef MUTANT_PENDING_WITHOUT_LIST
		found = !list;
#endif
		if
		:: list & BIT(0) -> atomic { assert(!(removed & BIT(0))); found = found || event[0] }
		:: else
		fi;
		if
		:: list & BIT(1) -> atomic { assert(!(removed & BIT(1))); found = found || event[1] }
		:: else
		fi;
		list = 0;
#ifndef MUTANT_PENDING_WITHOUT_LOCK
		delivery = 0
#endif
	:: else
	fi
}

// Worker.Remove
inline remove(s) {
#ifndef MUTANT_REMOVE_WITHOUT_LOCK
	lock(delivery);
#endif
	atomic {
		!mu ->
		gone = gone | BIT(s);
		due = due & ~BIT(s);
		sources = sources & ~BIT(s);
		bells = bells & ~BIT(s);
#ifndef MUTANT_REMOVE_WITHOUT_KICK
		if
		:: !sources -> edge = 1
		:: else
		fi;
#endif
#ifndef MUTANT_REMOVE_WITHOUT_LOCK
		delivery = 0;
#endif
		removed = removed | BIT(s)
	}
}

// Worker.run
active proctype worker() {
	byte list;
	byte working, cutting, again, passes;
	bool events, handled, more, found;
end_stopped:
	state != STOPPED;
pass:
#ifndef MUTANT_WORK_AFTER_EVENTS
	if
	:: due > 0 -> atomic { !mu -> working = due; cutting = due & ending; due = 0 }
	:: else
	fi;
#endif
	lock(delivery);
	list = sources;
	take(0);
	take(1);
	list = 0;
	delivery = 0;
#ifdef MUTANT_WORK_AFTER_EVENTS
	if
	:: due > 0 -> atomic { !mu -> working = due; cutting = due & ending; due = 0 }
	:: else
	fi;
#endif
	if
	:: working > 0 ->
		if
#ifdef MUTANT_ENDED_MEANWHILE
		:: !(ending & working) -> worked = 1
#else
		:: !cutting -> worked = 1
#endif
		:: else ->
			passes++;
			if
#ifndef MUTANT_CUT_DESPITE_MORE
			:: more && passes <= LEAVE -> again = working
			:: !more || passes > LEAVE ->
#else
			:: true ->
#endif
				assert(!before[0]);
				remove(0);
				worked = requested // there is nothing to be done for a source that has gone
			fi
		fi;
		atomic {
			!mu -> due = due | again;
			working = 0; cutting = 0; again = 0; handled = false; more = false
		}
		goto pass
	:: else
	fi;
	more = false;
	if
	:: handled -> handled = false; goto pass
	:: handled = false
	fi;
	// park
	ready = 0; // arm
	atomic { !mu -> setWorker(ASLEEP) }
	pending();
	if
	:: found -> found = false
	:: else ->
end_parked:
		ready -> ready = 0
	fi;
	atomic { !mu -> setWorker(AWAKE) }
	// stop
	atomic {
		!mu ->
		if
#ifndef MUTANT_STOP_WITH_SOURCES
		:: sources -> goto pass
#endif
		:: else -> setWorker(STOPPED)
		fi
	}
	group--;
	goto end_stopped
}

// What Spin.poll does for the worker: takeover
proctype spinner() {
	byte list;
	bool events, handled, more, found;
	atomic { // takeOver
		!mu ->
		if
		:: state != STOPPED && !takenOver ->
			takenOver = 1;
			announce();
			group++
		:: else -> goto done
		fi
	}
	do // deliver
	:: lock(delivery);
		list = sources;
		take(0);
		take(1);
		atomic { list = 0; more = false; handled = false; delivery = 0 }
	:: break // no more looks, or TryLock fails
	od;
	// giveBack
	atomic { !mu -> takenOver = 0; announce() }
	pending();
	if
	:: found -> atomic { !mu -> wake() }
	:: else
	fi;
	group--;
done:	skip
}

// A goroutine that adds a source, and removes it or has the worker do so
proctype pair(bit s) {
	atomic { // Add
		!mu -> mu = 1;
		if
		:: state == STOPPED -> edge = 0; ready = 0; bells = 0 // a new epoll
		:: else
		fi;
		bells = bells | BIT(s);
		edge = 1 // as the doorbell is readable from the start
	}
	atomic {
		sources = sources | BIT(s);
		if
		:: state != STOPPED -> edge = 1 // kick
		:: else -> setWorker(AWAKE); group++
		fi;
		mu = 0
	}
	if
	:: s == 0 ->
		atomic { before[0] = told[0]; schedule(0, true) }
		schedule(0, false) // as an end does whose connection goes late
	:: else -> remove(1)
	fi
}

// Remote.Notify
proctype setter(bit s; byte times) {
	do
	:: times > 0 ->
		times--;
		todo[s] = 1;
		event[s] = 1;
		told[s] = todo[s];
		if
		:: sleep ->
			atomic { // ring
				if
				:: bells & BIT(s) -> edge = 1
				:: else
				fi
			}
		:: else
		fi
	:: else -> break
	od
}

// The runtime's network poller
active proctype netpoll() {
end:	do
	:: atomic { edge -> edge = 0; ready = 1 }
	od
}

// Group.Wait, once all sources are gone
active proctype closer() {
	removed == ALL;
	atomic { group == 0 -> waited = 1 }
}

active proctype final() {
	timeout ->
	assert(waited && state == STOPPED && !takenOver && !delivery && !mu);
	assert(worked == requested && !due)
}

init {
	atomic {
		run pair(0);
#if defined CASE_ONE
		run setter(0, 2);
		run spinner()
#elif defined CASE_TWO
		run pair(1);
		run setter(0, 1);
		run setter(1, 1)
#elif defined CASE_TWO_AND_SPINNER
		run pair(1);
		run setter(1, 1);
		run spinner()
#endif
	}
}
