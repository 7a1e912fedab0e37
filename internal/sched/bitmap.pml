// The bitmap: a bit whose Set has returned is found, whatever Take does at the same time.
//
// What it stands for: Bitmap.Set, setBit, Pending, Take and take, with all three levels
// and two bits in a word. Two goroutines set bits: the same bit, or two of one leaf word,
// of one mid word, or of two. Take is called with any from, and with a max of 1 or 2, so
// that it often ends in the middle.
//
// What it leaves out, and why that is sound:
//   - Plain memory: each step is one operation of sync/atomic, which is sequentially
//     consistent, or is local.
//   - Several goroutines that take: they hold the worker's delivery lock, one at a time.
//     Pending is called with that lock held too, and so between two Takes here.
//   - Width: the bits of a word are independent, and two of them are enough for each
//     case: before, in and after the range, and taken before or after max is reached.
//
// What holds: between two Takes, Pending is true if any Set has returned whose event was
// not handled. When nothing more can happen, all were.
//
// check: safety
// mutants: SET_FROM_TOP SET_STOPS_AT_LEAF TOP_AFTER_MID LEAF_KEPT_UNTIL_HANDLED
// mutants: REST_FORGOTTEN REST_WITHOUT_TOP MAX_FORGETS_TOP MAX_FORGETS_MID

#define SLOTS 8

byte top;
byte mid[2];
byte leaf[4];

// For each setter a bit for each slot: events that were not handled (todo), and the ones
// among them whose Set has returned (told).
byte todo[2], told[2];

inline setBit(w, b) {
	if
	:: !(w & (1 << (b))) -> w = w | (1 << (b))
	:: else
	fi
}

// Bitmap.Set, some times
proctype setter(bit me; byte times) {
	byte slot;
	do
	:: times > 0 ->
		times--;
		atomic {
			if
			:: slot = 0
			:: slot = 1
			:: slot = 2
			:: slot = 5
			fi;
			todo[me] = todo[me] | (1 << slot)
		}
#ifdef MUTANT_SET_FROM_TOP
		setBit(top, slot / 4);
		setBit(mid[slot / 4], slot / 2 % 2);
		setBit(leaf[slot / 2], slot % 2);
#else
#ifdef MUTANT_SET_STOPS_AT_LEAF
		if
		:: leaf[slot / 2] & (1 << (slot % 2)) -> goto returned
		:: else
		fi;
#endif
		setBit(leaf[slot / 2], slot % 2);
		setBit(mid[slot / 4], slot / 2 % 2);
		setBit(top, slot / 4);
#endif
returned:
		atomic { told[me] = told[me] | (todo[me] & (1 << slot)); slot = 0 }
	:: else -> break
	od
}

inline handle(s) {
	atomic {
		todo[0] = todo[0] & ~(1 << (s)); told[0] = told[0] & ~(1 << (s));
		todo[1] = todo[1] & ~(1 << (s)); told[1] = told[1] & ~(1 << (s));
		n++
	}
}

// between returns a word with the bits from lo up to but not including hi.
#define CLAMP(x) ((x) < 0 -> 0 : ((x) > 2 -> 2 : (x)))
#define BETWEEN(lo, hi) ((3 << CLAMP(lo)) & ~(3 << CLAMP(hi)) & 3)

// Bitmap.Take, again and again, by goroutines that hold the delivery lock
active proctype taker() {
	byte from, max, n;
	byte lo, hi, next;      // take
	byte tops, mids, m, l;  // words and bits that are yet to be followed
	byte all;
end:	do
	:: atomic { top != 0 -> // Pending
			if
			:: max = 1
			:: max = 2
			fi;
			lo = from; hi = SLOTS
		}
take:
		if
		:: top == 0 -> next = 0; goto taken
		:: else
		fi;
#ifdef MUTANT_TOP_AFTER_MID
		tops = top & BETWEEN(lo / 4, (hi + 3) / 4);
#else
		atomic { all = top; top = 0 } // Swap
		tops = all & BETWEEN(lo / 4, (hi + 3) / 4);
		if
		:: all != tops -> top = top | (all & ~tops)
		:: else
		fi;
#endif
		m = 0;
		do
		:: m < 2 && !(tops & (1 << m)) -> m++
		:: m < 2 && tops & (1 << m) ->
			if
			:: n >= max ->
#ifndef MUTANT_MAX_FORGETS_TOP
				top = top | tops;
#endif
				next = m * 4;
				goto taken
			:: else
			fi;
			atomic { all = mid[m]; mid[m] = 0 } // Swap
			mids = all & BETWEEN(lo / 2 - m * 2, hi / 2 - m * 2);
			if
			:: all != mids ->
#ifndef MUTANT_REST_FORGOTTEN
				mid[m] = mid[m] | (all & ~mids);
#endif
#ifndef MUTANT_REST_WITHOUT_TOP
				top = top | (1 << m)
#endif
			:: else
			fi;
			l = 0;
			do
			:: l < 2 && !(mids & (1 << l)) -> l++
			:: l < 2 && mids & (1 << l) ->
				if
				:: n >= max ->
#ifndef MUTANT_MAX_FORGETS_MID
					mid[m] = mid[m] | mids;
#endif
					top = top | tops;
					next = (m * 2 + l) * 2;
					goto taken
				:: else
				fi;
#ifdef MUTANT_LEAF_KEPT_UNTIL_HANDLED
				all = leaf[m * 2 + l];
#else
				atomic { all = leaf[m * 2 + l]; leaf[m * 2 + l] = 0 } // Swap
#endif
				if
				:: all & 1 -> handle((m * 2 + l) * 2)
				:: else
				fi;
				if
				:: all & 2 -> handle((m * 2 + l) * 2 + 1)
				:: else
				fi;
#ifdef MUTANT_LEAF_KEPT_UNTIL_HANDLED
				leaf[m * 2 + l] = 0;
#endif
				mids = mids & ~(1 << l)
			:: l == 2 -> break
			od;
#ifdef MUTANT_TOP_AFTER_MID
			top = top & ~(1 << m);
#endif
			tops = tops & ~(1 << m)
		:: m == 2 -> next = 0; break
		od;
taken:
		atomic {
			all = 0; tops = 0; mids = 0; m = 0; l = 0;
			if
			:: lo > 0 && n < max -> lo = 0; hi = from; goto take
			:: else
			fi;
			from = next;
			n = 0; max = 0; lo = 0; hi = 0; next = 0
		}
		assert(top != 0 || !told[0] && !told[1])
	od
}

active proctype final() { timeout -> assert(!todo[0] && !todo[1]) }

init {
	atomic {
		run setter(0, 2);
		run setter(1, 1)
	}
}
