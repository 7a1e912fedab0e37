package main

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// A filter selects rows, as the filters of ss do:
//
//	filter     = { ("state" | "exclude") state } [ expression ]
//	expression = term { "or" term }
//	term       = factor { ["and"] factor }
//	factor     = "not" factor | "(" expression ")" | predicate
//	predicate  = ("src" | "dst") [ "=" | "!=" ] address
//	           | ("sport" | "dport") operator port
//	           | ("id" | "pid") ("=" | "!=") text
//	           | ("age" | "idle") operator duration
//	           | "space" operator percentage
//
// "&", "|" and "!" stand for and, or and not, and eq, ne, gt, ge, lt, le for the operators.
type filter struct {
	hasStates       bool
	states, exclude map[string]bool // in upper case
	expression      condition       // nil matches all
}

// A condition is true or false of a row.
type condition func(r *row) bool

func (f *filter) match(r *row) bool {
	if len(f.states) > 0 && !f.states[r.state] || f.exclude[r.state] {
		return false
	}
	return f.expression == nil || f.expression(r)
}

// stateNames are the names of states, as ss and ctnet write them.
var stateNames = map[string][]string{
	"established": {"ESTABLISHED"}, "half-open": {"HALF-OPEN"}, "syn-sent": {"HALF-OPEN", "SYN-SENT"}, "syn-recv": {"SYN-RECV"},
	"fin-wait": {"FIN-WAIT", "FIN-WAIT-1", "FIN-WAIT-2"}, "fin-wait-1": {"FIN-WAIT", "FIN-WAIT-1"}, "fin-wait-2": {"FIN-WAIT-2"},
	"time-wait": {"TIME-WAIT"}, "close-wait": {"CLOSE-WAIT"}, "last-ack": {"LAST-ACK"}, "closing": {"CLOSING"},
	"reset": {"RESET"}, "closed": {"CLOSED"}, "close": {"CLOSED"}, "listening": {stateListen}, "listen": {stateListen},
}

func init() {
	connected := map[string]bool{}
	for _, states := range stateNames {
		for _, s := range states {
			connected[s] = true
		}
	}
	var all []string
	for s := range connected {
		all = append(all, s)
	}
	stateNames["all"] = all
	var but []string
	for _, s := range all {
		if s != stateListen && s != "CLOSED" {
			but = append(but, s)
		}
	}
	stateNames["connected"] = but
}

// maxDepth is how deep parentheses and nots may be.
const maxDepth = 100

// A parser reads a filter's words.
type parser struct {
	words []string
	depth int
}

func parseFilter(text string) (*filter, error) {
	f := &filter{states: map[string]bool{}, exclude: map[string]bool{}}
	p := parser{words: split(text)}
	for {
		into := f.states
		switch {
		case p.take("exclude"):
			into = f.exclude
		case p.take("state"):
		default:
			if len(p.words) == 0 {
				return f, nil
			}
			var err error
			f.expression, err = p.or()
			if err == nil && len(p.words) > 0 {
				err = fmt.Errorf("%q is not expected in the filter", p.words[0])
			}
			return f, err
		}
		name, ok := p.next()
		states := stateNames[strings.ToLower(name)]
		if !ok || states == nil {
			return nil, fmt.Errorf("%q is not a state", name)
		}
		f.hasStates = true
		for _, s := range states {
			into[s] = true
		}
	}
}

// split splits a filter into words, parentheses and operators.
func split(text string) (words []string) {
	const signs = "()=!<>&|"
	for text != "" {
		text = strings.TrimLeft(text, " \t\n")
		n := strings.IndexAny(text, " \t\n"+signs)
		switch {
		case n < 0:
			n = len(text)
		case n == 0:
			n = 1
			if len(text) > 1 && (text[1] == '=' && strings.IndexByte("=!<>", text[0]) >= 0 || text[1] == text[0] && strings.IndexByte("&|", text[0]) >= 0) {
				n = 2
			}
		}
		if n > 0 {
			words = append(words, text[:n])
		}
		text = text[n:]
	}
	return words
}

func (p *parser) next() (word string, ok bool) {
	if len(p.words) == 0 {
		return "", false
	}
	word, p.words = p.words[0], p.words[1:]
	return word, true
}

// take takes the next word if it is one of these.
func (p *parser) take(words ...string) bool {
	for _, w := range words {
		if len(p.words) > 0 && strings.EqualFold(p.words[0], w) {
			p.words = p.words[1:]
			return true
		}
	}
	return false
}

func (p *parser) or() (condition, error) {
	left, err := p.and()
	for err == nil && p.take("or", "|", "||") {
		a := left
		var b condition
		b, err = p.and()
		left = func(r *row) bool { return a(r) || b(r) }
	}
	return left, err
}

func (p *parser) and() (condition, error) {
	left, err := p.factor()
	for err == nil && len(p.words) > 0 {
		if !p.take("and", "&", "&&") {
			switch strings.ToLower(p.words[0]) {
			case "or", "|", "||", ")":
				return left, nil
			}
		}
		a := left
		var b condition
		b, err = p.factor()
		left = func(r *row) bool { return a(r) && b(r) }
	}
	return left, err
}

func (p *parser) factor() (condition, error) {
	if p.depth++; p.depth > maxDepth {
		return nil, errors.New("the filter is too deep")
	}
	defer func() { p.depth-- }()
	switch {
	case p.take("not", "!"):
		a, err := p.factor()
		return func(r *row) bool { return !a(r) }, err
	case p.take("("):
		a, err := p.or()
		if err == nil && !p.take(")") {
			err = errors.New("a ) is missing in the filter")
		}
		return a, err
	}
	return p.predicate()
}

// operators are those of ss, and what they mean of the result of cmp.Compare.
var operators = map[string]func(order int) bool{
	"=": func(order int) bool { return order == 0 }, "!=": func(order int) bool { return order != 0 },
	"<": func(order int) bool { return order < 0 }, ">": func(order int) bool { return order > 0 },
	"<=": func(order int) bool { return order <= 0 }, ">=": func(order int) bool { return order >= 0 },
}

var operatorWords = map[string]string{
	"==": "=", "eq": "=", "ne": "!=", "neq": "!=", "lt": "<", "gt": ">", "le": "<=", "leq": "<=", "ge": ">=", "geq": ">=",
}

// operator takes an operator. It returns "=" if there is none.
func (p *parser) operator() string {
	if len(p.words) > 0 {
		w := strings.ToLower(p.words[0])
		if o := operatorWords[w]; o != "" {
			w = o
		}
		if operators[w] != nil {
			p.words = p.words[1:]
			return w
		}
	}
	return "="
}

func (p *parser) predicate() (condition, error) {
	what, ok := p.next()
	if !ok {
		return nil, errors.New("the filter ends too early")
	}
	what = strings.ToLower(what)
	op := p.operator()
	value, ok := p.next()
	if !ok || strings.ContainsAny(value, "()=!<>&|") {
		return nil, fmt.Errorf("%q needs a value in the filter", what)
	}
	var c condition
	switch what {
	case "sport", "dport":
		port, err := parsePort(value)
		if err != nil {
			return nil, err
		}
		compare := operators[op]
		return func(r *row) bool {
			at, err := netip.ParseAddrPort(r.side(what == "sport"))
			return err == nil && compare(cmp.Compare(int(at.Port()), port))
		}, nil
	case "age", "idle":
		limit, err := time.ParseDuration(value)
		if err != nil {
			return nil, fmt.Errorf("%q is not a duration, such as 1.5s or 2m", value)
		}
		compare := operators[op]
		return func(r *row) bool {
			if r.conn == nil {
				return false
			}
			since := r.conn.Idle
			if what == "age" {
				since = r.conn.Age
			}
			return compare(cmp.Compare(since, limit))
		}, nil
	case "space":
		limit, err := strconv.ParseFloat(strings.TrimSuffix(value, "%"), 64)
		if err != nil {
			return nil, fmt.Errorf("%q is not a percentage", value)
		}
		compare := operators[op]
		return func(r *row) bool {
			return r.conn != nil && compare(cmp.Compare(100*share(r.conn.Send.Stalled, r.conn.Age), limit))
		}, nil
	case "src", "dst":
		is, err := parseAddress(value)
		if err != nil {
			return nil, err
		}
		c = func(r *row) bool { return is(r.side(what == "src")) }
	case "id":
		c = func(r *row) bool { return r.conn != nil && r.conn.ID == value }
	case "pid":
		c = func(r *row) bool { return strconv.Itoa(r.pid) == value }
	default:
		return nil, fmt.Errorf("%q is not known in a filter; it may have state, exclude, src, dst, sport, dport, id, pid, age, idle and space", what)
	}
	switch op {
	case "=":
		return c, nil
	case "!=":
		return func(r *row) bool { return !c(r) }, nil
	}
	return nil, fmt.Errorf("%s %s makes no sense in a filter", what, op)
}

// side returns one of the row's addresses.
func (r *row) side(local bool) string {
	if local {
		return r.local
	}
	return r.remote
}

// parsePort parses a port: a number or a service's name, with a colon before it or without.
func parsePort(s string) (int, error) {
	s = strings.TrimPrefix(strings.TrimPrefix(s, "*"), ":")
	if n, err := strconv.ParseUint(s, 10, 16); err == nil {
		return int(n), nil
	}
	for port, name := range services() {
		if name == s {
			return port, nil
		}
	}
	return 0, fmt.Errorf("%q is not a port", s)
}

// parseAddress parses the address of a predicate: 127.0.0.1, 10.0.0.0/8, ::1, [::1]:80, :80, *:80,
// or the name or path of a listener, in which * stands for any text.
func parseAddress(s string) (func(address string) bool, error) {
	hostPart, portPart := s, ""
	if i := strings.LastIndexByte(s, ':'); i >= 0 && (strings.Count(s, ":") == 1 || strings.HasPrefix(s, "[") && s[i-1] == ']') {
		hostPart, portPart = s[:i], s[i+1:]
	}
	hostPart = strings.TrimSuffix(strings.TrimPrefix(hostPart, "["), "]")
	var prefix netip.Prefix
	anyHost := hostPart == "" || hostPart == "*"
	if ip, err := netip.ParseAddr(hostPart); err == nil {
		ip = ip.Unmap()
		prefix = netip.PrefixFrom(ip, ip.BitLen())
	} else if prefix, err = netip.ParsePrefix(hostPart); err != nil && (!anyHost || portPart == "") {
		return func(address string) bool { return matches(s, address) }, nil
	}
	port := -1
	if portPart != "" && portPart != "*" {
		var err error
		if port, err = parsePort(portPart); err != nil {
			return nil, err
		}
	}
	return func(address string) bool {
		at, err := netip.ParseAddrPort(address)
		return err == nil && (anyHost || prefix.Contains(at.Addr().Unmap().WithZone(""))) && (port < 0 || int(at.Port()) == port)
	}, nil
}

// matches reports whether s is as pattern says, in which * stands for any text.
func matches(pattern, s string) bool {
	parts := strings.Split(pattern, "*")
	if len(parts) == 1 {
		return pattern == s
	}
	if !strings.HasPrefix(s, parts[0]) {
		return false
	}
	s = s[len(parts[0]):]
	last := parts[len(parts)-1]
	for _, part := range parts[1 : len(parts)-1] {
		_, after, ok := strings.Cut(s, part)
		if !ok {
			return false
		}
		s = after
	}
	return strings.HasSuffix(s, last)
}
