// Room for half-open connections: a Dial that waits for a place is admitted when there is one.
//
// What it stands for: server.handle, admitSome, settled, and of sched.Worker that Schedule has
// the worker call Work, which is admitSome, and that the worker calls it again if it returns
// true. A Bitmap's Take takes bits away and puts some of them back (source.pml and bitmap.pml
// have it in full): here it takes all, and puts back those that there is no room for.
//
// What it leaves out, and why that is sound:
//   - How a connection is made and ends; that is a half-open one here from its admission on
//     until it is settled, once.
//   - The worker's sleep: Schedule makes it runnable, whatever it does (source.pml).
//   - The end of a pair, after which nobody waits.
//
// What holds: there are never more half-open connections than there may be, and when nothing
// more can happen all Dials were admitted.
//
// check: safety
// mutants: NO_LOOK_AFTER_TAKE SETTLED_WITHOUT_LOOK LOOK_BEFORE_SETTLED

#define DIALS 3
#define LIMIT 1

byte requests; // a bit for each Dial
byte open;     // server.halfOpens
byte admitted;
bit scheduled;
bit waiting[DIALS]; // the connection is half-open

proctype dialer(byte i) {
	requests = requests | (1 << i); // handle
	scheduled = 1;
	waiting[i] -> waiting[i] = 0; // accepted, or given up
	// settled
#ifdef MUTANT_LOOK_BEFORE_SETTLED
	bit pending;
	pending = requests > 0;
	open--;
	if
	:: pending -> scheduled = 1
	:: else
	fi
#else
	open--;
#ifndef MUTANT_SETTLED_WITHOUT_LOOK
	if
	:: requests > 0 -> scheduled = 1
	:: else
	fi
#endif
#endif
}

active proctype worker() {
	byte taken, room, i;
end:
	scheduled -> scheduled = 0;
again:
	room = LIMIT - open;
	if
	:: room == 0 -> goto end
	:: else
	fi;
	// Take
	atomic { taken = requests; requests = 0 }
	i = 0;
	do
	:: i == DIALS -> break
	:: else ->
		if
		:: taken & (1 << i) && room > 0 ->
			atomic { open++; assert(open <= LIMIT) }
			admitted++;
			taken = taken & ~(1 << i);
			room--;
			waiting[i] = 1
		:: else
		fi;
		i++
	od;
	requests = requests | taken;
	taken = 0; i = 0; room = 0;
#ifndef MUTANT_NO_LOOK_AFTER_TAKE
	if
	:: requests > 0 ->
		if
		:: open < LIMIT -> goto again
		:: else
		fi
	:: else
	fi;
#endif
	goto end
}

active proctype final() {
	timeout ->
	assert(admitted == DIALS && open == 0 && !requests)
}

init {
	byte n;
	atomic {
		do
		:: n == DIALS -> break
		:: else -> run dialer(n); n++
		od
	}
}
