/*
 * slot.pml: the life of a slot over several uses: a Dial asks for a connection in it, the
 * server answers, both sides let go of it, and it is used again.
 *
 * Stands for
 *	clientUse and clientCode   Slot.ClientState; serverUse and serverCode: ServerState
 *	toServer, toClient         the slot's bit in the bitmap of each direction
 *	free, limbo, uses          what Pool knows of the slot. seen: what Table knows
 *	dialedConn, acceptedConn   the slot's place in each side's slotTable
 *	Dial                       client.connect, awaitAnswer, decide and Dialed.LetGo, and
 *	                           the user, who writes and closes; Pool's Alloc, reap, Free
 *	ClientWorker, Deliver      client.handle and server.handle with Table.Request; Deliver
 *	                           may be one that polls on the worker's behalf, whose calls go on
 *	Incoming                   server.incoming, called by the worker
 *	queued                     the backlog's queue, in which a slot is once. room says that
 *	                           it is among the first, which are answered; Promote: it comes up
 *	answer, accept, drop, refuse, tell, checkDialer, release   methods of Accepted: release
 *	                           is LetGo; tell is the server's
 *	accepted                   the use of the accepted that there is. What an older one does
 *	                           has no effect: its gate is closed and it is not queued
 *	PairEnd                    the control channel ends: client.read, server.read, pair.die
 *	AppClose                   App.Close of the server's application
 *
 * Left out
 *	Other slots. What they do to this one, to leave it no place in the backlog, to let
 *	it come up, to reach a limit, is chosen at random.
 *	The bitmap and how a worker is woken for a bit: internal/sched.
 *	What is in the fifos. A side uses them: then they must have been reset for this use
 *	and not be given back.
 *	App.Close of the client's application: to a Dial it is what its context's end is.
 *
 * sync/atomic is sequentially consistent, so it is right to interleave the steps.
 *
 * Properties
 *	The two sides are never in different uses, and neither uses the slot after it has
 *	said that it has let go.
 *	Pages are given back only while neither side uses the slot.
 *	Each side looks at the other's fifo words only after they were reset for this use.
 *	A Dial returns: it is answered, or its context or the pair ends. No answer is lost.
 *	When nothing is left to be done, no half-open whose Dial has failed is in the backlog.
 *	In the end both sides have let go, and the client can use the slot if the pair lives.
 *
 * Mutants
 *	NOTIFY_EARLY    old code: a Dial that fails notifies the server before it says GivenUp
 *	TRIM_ALONE      old code: pages are given back when the client alone has let go
 *	DROP_SILENT     a half-open is dropped without an answer
 *	NO_CHECK        incoming does not look whether the Dial has failed meanwhile
 *	ANSWERED_STAYS  a half-open that was answered stays in the backlog if its Dial fails
 *	NO_DONE         Request leaves alone what was given up before it was seen
 *	NTF_LATE        the Dial looks at the answer for the last time, then says ConnectNtf
 *	TELL_EARLY      the server looks for ConnectNtf, then says Accepted or Refused
 *	TABLE_LATE      the server says Done, then takes the connection out of its table
 *	USE_IGNORED     a Dial takes the server's word of an earlier use for its own
 *	SEEN_IGNORED    Request takes a use that was seen
 *
 * check: safety
 * mutants: NOTIFY_EARLY TRIM_ALONE DROP_SILENT NO_CHECK ANSWERED_STAYS NO_DONE NTF_LATE TELL_EARLY TABLE_LATE USE_IGNORED SEEN_IGNORED
 */

/* What the sides say. */
#define Idle       0
#define Connect    1
#define ConnectNtf 2
#define Done       3
#define Accepted   4
#define Refused    5
#define GivenUp    6

byte clientUse, clientCode, serverUse, serverCode;
bool toServer, toClient;

/* The client. */
bool free = true, limbo, poolClosed, clientDead, clientRemoved;
byte uses, dialedConn;
byte waiting; /* the use whose Dial is about to sleep, or does */
bool token;

/* The server. */
byte seen, acceptedConn;
bool serverDead, serverRemoved;
chan requests = [1] of { byte };
byte queued;
bool room, backlogClosed;

/* The accepted. */
byte accepted, refs;
bool gateClosed, answered, taken, refused;
byte once; /* 1 while answer is at it, then 2 */

/* What the properties speak of. */
byte client, server;           /* the use that a side is in */
byte clientReset, serverReset; /* the use for which its fifo words were reset */
bool trimming;
byte dials;                    /* that have not returned */
byte closers;                  /* that have not either */

#define usesSlot(side, u) assert(side == u && !trimming)

/*
 * The server's side.
 */

#define OWN byte u; bool ok, gone

inline tell() {
	if
	:: clientCode == ConnectNtf -> toClient = true
	:: clientCode != ConnectNtf
	fi
}

/* Accepted, or Refused: then the server has let go. */
inline say(code) {
	d_step {
		usesSlot(server, u);
		serverUse = u;
		serverCode = code;
		if
		:: code != Accepted -> server = 0
		:: else
		fi
	}
}

inline sayAndTell(code) {
#ifdef MUTANT_TELL_EARLY
	ok = (clientCode == ConnectNtf);
	say(code);
	if
	:: ok -> toClient = true; ok = false
	:: !ok
	fi
#else
	say(code);
	tell()
#endif
}

inline release() {
#ifndef MUTANT_TABLE_LATE
	acceptedConn = 0;
#endif
	if
	:: refused -> sayAndTell(Refused)
	:: !refused -> say(Done)
	fi
#ifdef MUTANT_TABLE_LATE
	;
	acceptedConn = 0
#endif
}

#define open (accepted == u && !gateClosed)

inline enter() {
	d_step {
		ok = open;
		if
		:: ok -> refs++
		:: else
		fi
	}
}

inline leave() {
	d_step {
		usesSlot(server, u);
		refs--;
		ok = gateClosed && refs == 0
	}
	if
	:: ok -> ok = false; release()
	:: !ok
	fi
}

/* Conn.abort, Conn.Close; with no, refuse. */
inline close(no) {
	d_step {
		ok = open;
		if
		:: ok -> gateClosed = true; refused = no; refs++
		:: else
		fi
	}
	if
	:: ok -> leave()
	:: !ok
	fi
}

inline answer() {
	atomic {
		if
		:: accepted != u || once == 2 -> ok = false
		:: accepted == u && once == 0 -> once = 1; ok = true
		fi
	}
	if
	:: ok ->
		enter();
		if
		:: ok ->
			sayAndTell(Accepted);
			answered = true;
			d_step { once = 2; ok = false }
			leave()
		:: !ok -> once = 2
		fi
	:: !ok
	fi
}

inline drop() {
#ifndef MUTANT_DROP_SILENT
	answer();
#endif
	close(false)
}

inline withdraw() {
	d_step {
		ok = (queued == u);
		if
		:: ok -> queued = 0; room = false
		:: else
		fi
	}
	if
	:: ok -> drop()
	:: !ok
	fi
}

/* Sets gone. */
inline givenUp() {
	enter();
	if
	:: ok -> gone = (clientUse != u || clientCode == GivenUp); leave()
	:: !ok
	fi
}

inline checkDialer() {
	if
#ifdef MUTANT_ANSWERED_STAYS
	:: accepted == u && (taken || answered)
	:: !(accepted == u && (taken || answered)) ->
#else
	:: accepted == u && taken
	:: !(accepted == u && taken) ->
#endif
		givenUp();
		if
		:: gone -> gone = false; withdraw()
		:: !gone
		fi
	fi
}

/* server.detach */
inline detach() {
	if
	:: accepted == u && answered
	:: !(accepted == u && answered) -> withdraw()
	fi
}

#ifdef MUTANT_SEEN_IGNORED
#define notSeen (clientUse != 0)
#else
#define notSeen (clientUse != seen)
#endif

proctype Deliver() {
	OWN;
end:
	do
	:: serverRemoved -> break
	:: toServer && !serverRemoved ->
		toServer = false;
		u = acceptedConn;
		if
		:: u != 0 -> checkDialer()
		:: u == 0 ->
			/* Table.Request */
			d_step {
				if
				:: notSeen && (clientCode == Connect || clientCode == ConnectNtf) ->
					assert(server == 0 && !trimming);
					u = clientUse;
					seen = u;
					server = u
#ifndef MUTANT_NO_DONE
				:: notSeen && (clientCode == Done || clientCode == GivenUp) ->
					u = clientUse;
					seen = u
#endif
				:: else
				fi
			}
			if
			:: u == 0
			:: u != 0 && server == u -> requests!u
			:: u != 0 && server != u -> d_step { serverUse = u; serverCode = Done }
			fi
		fi;
		u = 0
	od
}

proctype Incoming() {
	OWN;
end:
	do
	:: requests?u ->
		if
		:: true -> sayAndTell(Refused) /* a limit is reached */
		:: true ->
			d_step {
				usesSlot(server, u);
				serverReset = u;
				assert(refs == 0);
				accepted = u; gateClosed = false; answered = false;
				taken = false; refused = false; once = 0
			}
			acceptedConn = u;
			/* backlog.offer */
			atomic {
				if
				:: backlogClosed -> gone = true
				:: !backlogClosed -> queued = u; room = true; ok = true
				:: !backlogClosed -> queued = u
				fi
			}
			if
			:: gone -> gone = false; close(true)
			:: ok -> answer()
			:: !gone && !ok
			fi;
			if
			:: serverDead -> detach()
			:: !serverDead ->
#ifndef MUTANT_NO_CHECK
				checkDialer()
#endif
			fi
		fi;
		d_step { u = 0; ok = false }
	od
}

proctype Promote() {
	OWN;
end:
	do
	:: d_step { queued != 0 && !room -> room = true; u = queued }
	   answer();
	   u = 0
	od
}

proctype Accept() {
	OWN;
end:
	do
	:: d_step { queued != 0 -> u = queued; queued = 0; room = false }
	   /* accept */
	   answer();
	   d_step {
		if
		:: accepted == u -> taken = true
		:: else
		fi
	   }
	   givenUp();
	   if
	   :: gone -> gone = false; drop()
	   :: !gone ->
		/* The user reads, and closes. */
		enter();
		if
		:: ok -> assert(clientReset == u); leave()
		:: !ok
		fi;
		close(false)
	   fi;
	   u = 0
	od
}

/* backlog.close */
inline closeBacklog() {
	d_step {
		backlogClosed = true;
		u = queued;
		queued = 0;
		gone = room;
		room = false
	}
	if
	:: u == 0
	:: u != 0 && gone -> gone = false; drop()
	:: u != 0 && !gone -> close(true)
	fi
}

/* At any moment or, if it is late, when nothing else is left to be done. */
proctype ListenerClose(bool late) {
	OWN;
	if
	:: !late
	:: late -> timeout;
		assert(queued == 0 || serverDead || clientCode != GivenUp)
	fi;
	closeBacklog();
	closers--
}

inline endServer() {
	serverDead = true;
	u = acceptedConn;
	if
	:: u != 0 -> detach()
	:: u == 0
	fi;
	d_step { serverRemoved = true; closers-- }
}

proctype PairEndServer() {
	OWN;
	endServer()
}

proctype AppClose() {
	OWN;
	closeBacklog();
	u = acceptedConn;
	if
	:: u != 0 -> close(false)
	:: u == 0
	fi;
	run PairEndClient();
	endServer()
}

/*
 * The client's side.
 */

inline wake() {
	if
	:: u != 0 && waiting == u -> waiting = 0; token = true
	:: else
	fi;
	u = 0
}

proctype ClientWorker() {
	byte u;
end:
	do
	:: clientRemoved -> break
	:: toClient && !clientRemoved ->
		toClient = false;
		u = dialedConn;
		d_step { wake() }
	od
}

proctype PairEndClient() {
	byte u;
	clientDead = true;
	d_step { u = dialedConn; wake(); clientRemoved = true; poolClosed = true; closers-- }
}

inline trim() {
	d_step { assert(client == 0 && server == 0); trimming = true }
	trimming = false
}

#define serverDone (serverUse == uses && (serverCode == Done || serverCode == Refused))

#ifdef MUTANT_USE_IGNORED
#define answerOf(u) (serverCode)
#else
#define answerOf(u) (serverUse == u -> serverCode : Idle)
#endif

#define ready(u) (answerOf(u) != Idle || clientDead)

/* The end of Pool.Free. */
inline putOrLimbo() {
#ifdef MUTANT_TRIM_ALONE
	trim();
#endif
	if
	:: serverDone ->
#ifndef MUTANT_TRIM_ALONE
		trim();
#endif
		free = true
	:: !serverDone -> limbo = true
	fi
}

/* u is the use that the Dial gets. If it is patient its context does not end. */
proctype Dial(byte u; bool patient) {
	byte is;
	/* Pool.Alloc */
	do
	:: d_step { free && uses == u - 1 && !poolClosed ->
		assert(client == 0 && server == 0 && !trimming);
		free = false; uses = u; client = u; clientReset = u }
	   break
	:: d_step { limbo && uses == u - 1 && !poolClosed && serverDone -> limbo = false }
#ifndef MUTANT_TRIM_ALONE
	   trim();
#endif
	   free = true
	:: poolClosed -> goto out
	od;
	dialedConn = u;
	d_step { usesSlot(client, u); clientUse = u; clientCode = Connect }
	toServer = true;
	/* awaitAnswer */
	do
	:: ready(u) || !patient -> break
	:: !ready(u) ->
		waiting = u;
#ifdef MUTANT_NTF_LATE
		if
		:: ready(u) -> d_step { waiting = 0; token = false } break
		:: !ready(u) ->
		fi;
		d_step { usesSlot(client, u); clientCode = ConnectNtf }
#else
		d_step { usesSlot(client, u); clientCode = ConnectNtf }
		if
		:: ready(u) -> d_step { waiting = 0; token = false } break
		:: !ready(u)
		fi;
#endif
		if
		:: token -> token = false
		:: !patient -> d_step { waiting = 0; token = false } break
		fi
	od;
	/* decide */
	is = answerOf(u);
	dialedConn = 0;
	if
	:: is == Accepted || is == Done ->
		/* The user has written, and closes. */
		d_step { usesSlot(client, u); assert(serverReset == u); clientCode = Done; client = 0 }
		putOrLimbo()
	:: is == Idle || is == Refused ->
		is = answerOf(u);
#ifdef MUTANT_NOTIFY_EARLY
		toServer = true;
#endif
		d_step { usesSlot(client, u); clientCode = GivenUp; client = 0 }
		putOrLimbo();
#ifndef MUTANT_NOTIFY_EARLY
		if
		:: is != Refused -> toServer = true
		:: is == Refused
		fi
#endif
	fi;
out:
	dials--
}

/* Five groups of goroutines: all of them at once have too many states. */
init {
	atomic {
		if :: run Dial(1, true) :: run Dial(1, false) fi;
		run ClientWorker(); run Deliver(); run Incoming();
		if
		:: dials = 2; closers = 1; run Dial(2, true); run Promote(); run ListenerClose(true)
		:: dials = 2; closers = 1; run Dial(2, true); run Accept(); run ListenerClose(true)
		:: dials = 1; closers = 1; run Promote(); run Accept(); run ListenerClose(false)
		:: dials = 1; closers = 2; run AppClose()
		:: dials = 1; closers = 3; run ListenerClose(true); run PairEndServer(); run PairEndClient()
		fi
	}
	closers == 0;
	timeout;
	assert(dials == 0 && client == 0 && server == 0 && queued == 0);
	assert(free || limbo && serverDone || poolClosed)
}
