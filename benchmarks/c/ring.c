// The limits that the machine sets, for comparison: two threads, one on each of
// two CPUs.
//
//	ring trip CPU CPU MILLISECONDS
//		prints the microseconds of a round trip between them, or 0 if others
//		keep the threads from running
//	ring copy CPU CPU memcpy|nt RING PIECE MILLISECONDS
//		prints the GB/s of copying into a ring and out of it again, and the
//		CPU seconds a GB of both
//
// In both threads look at one word until it changes. Nothing can be faster between
// these two CPUs, and nothing is slower when they move apart.
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#ifdef __SSE2__
#include <emmintrin.h>
#endif

enum { LINE = 128, BUFFER = 64 << 10, BATCH = 64, BATCHES = 1 << 16 };

static double now(void) {
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

static double cpu(void) {
	struct timespec t;
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

static inline void look_again(void) {
#if defined(__x86_64__) || defined(__i386__)
	__builtin_ia32_pause();
#elif defined(__aarch64__)
	__asm__ volatile("yield");
#endif
}

static void pin(int n) {
	cpu_set_t set;
	CPU_ZERO(&set);
	CPU_SET(n, &set);
	if (pthread_setaffinity_np(pthread_self(), sizeof set, &set) != 0) {
		fprintf(stderr, "ring: no CPU %d\n", n);
		exit(1);
	}
}

static struct {
	_Alignas(LINE) _Atomic uint64_t to;
	_Alignas(LINE) _Atomic uint64_t from;
	_Alignas(LINE) _Atomic int ready;
	_Atomic int stop;
} w;

static int cpus[2];
static double seconds;

static void *echo(void *unused) {
	pin(cpus[1]);
	atomic_store(&w.ready, 1);
	for (uint64_t n = 1;; n++) {
		while (atomic_load_explicit(&w.to, memory_order_acquire) != n)
			if (atomic_load_explicit(&w.stop, memory_order_relaxed))
				return unused;
			else
				look_again();
		atomic_store_explicit(&w.from, n, memory_order_release);
	}
}

static int ascending(const void *a, const void *b) {
	double x = *(const double *)a, y = *(const double *)b;
	return (x > y) - (x < y);
}

static void trip(void) {
	static double times[BATCHES];
	pthread_t t;
	pthread_create(&t, NULL, echo, NULL);
	pin(cpus[0]);
	while (!atomic_load(&w.ready))
		sched_yield();
	int batches = 0;
	uint64_t n = 0, looks = 0;
	double give_up = now() + 2;
	// The median of batches is not disturbed by those during which one of the
	// threads was not running.
	for (double end = now() + seconds; batches < BATCHES && (batches < 3 || now() < end);) {
		double start = now();
		for (int i = 0; i < BATCH; i++) {
			atomic_store_explicit(&w.to, ++n, memory_order_release);
			while (atomic_load_explicit(&w.from, memory_order_acquire) != n) {
				look_again();
				if (++looks % (1 << 16) == 0 && now() > give_up) {
					printf("0\n");
					exit(0);
				}
			}
		}
		times[batches++] = now() - start;
	}
	atomic_store(&w.stop, 1);
	pthread_join(t, NULL);
	qsort(times, batches, sizeof *times, ascending);
	printf("%.4f\n", times[batches / 2] / BATCH * 1e6);
}

// The ring's words: to is the tail and from the head.
static char *ring;
static size_t size, piece;
static int streaming;

static void copy_in(char *to, const char *from, size_t n) {
#ifdef __SSE2__
	if (streaming) {
		for (size_t i = 0; i < n; i += 64) {
			__m128i a = _mm_loadu_si128((const __m128i *)(from + i));
			__m128i b = _mm_loadu_si128((const __m128i *)(from + i + 16));
			__m128i c = _mm_loadu_si128((const __m128i *)(from + i + 32));
			__m128i d = _mm_loadu_si128((const __m128i *)(from + i + 48));
			_mm_stream_si128((__m128i *)(to + i), a);
			_mm_stream_si128((__m128i *)(to + i + 16), b);
			_mm_stream_si128((__m128i *)(to + i + 32), c);
			_mm_stream_si128((__m128i *)(to + i + 48), d);
		}
		_mm_sfence();
		return;
	}
#endif
	memcpy(to, from, n);
}

static void *consume(void *unused) {
	pin(cpus[1]);
	char *to = aligned_alloc(4096, BUFFER);
	memset(to, 1, BUFFER);
	atomic_store(&w.ready, 1);
	uint64_t head = 0;
	size_t at = 0;
	for (;;) {
		uint64_t tail = atomic_load_explicit(&w.to, memory_order_acquire);
		if (tail == head) {
			if (atomic_load_explicit(&w.stop, memory_order_acquire) &&
			    atomic_load_explicit(&w.to, memory_order_acquire) == head)
				return unused;
			look_again();
			continue;
		}
		memcpy(to + at, ring + (head & (size - 1)), piece);
		at = (at + piece) % BUFFER;
		head += piece;
		atomic_store_explicit(&w.from, head, memory_order_release);
	}
}

static void copy(void) {
	ring = aligned_alloc(4096, size);
	char *from = aligned_alloc(4096, BUFFER);
	memset(ring, 1, size);
	memset(from, 2, BUFFER);
	pthread_t t;
	pthread_create(&t, NULL, consume, NULL);
	pin(cpus[0]);
	while (!atomic_load(&w.ready))
		sched_yield();
	double start = now(), used = cpu();
	uint64_t tail = 0;
	size_t at = 0;
	for (unsigned i = 0;; i++) {
		if (i % 8 == 0 && now() > start + seconds)
			break;
		while (tail + piece - atomic_load_explicit(&w.from, memory_order_acquire) > size)
			look_again();
		copy_in(ring + (tail & (size - 1)), from + at, piece);
		at = (at + piece) % BUFFER;
		tail += piece;
		atomic_store_explicit(&w.to, tail, memory_order_release);
	}
	atomic_store(&w.stop, 1);
	pthread_join(t, NULL);
	double elapsed = now() - start;
	printf("%.4f %.4f\n", tail / elapsed / 1e9, (cpu() - used) / (tail / 1e9));
}

int main(int argc, char **argv) {
	if (argc < 5) {
		fprintf(stderr, "usage: ring trip|copy CPU CPU ...\n");
		return 2;
	}
	cpus[0] = atoi(argv[2]);
	cpus[1] = atoi(argv[3]);
	seconds = atoi(argv[argc - 1]) / 1e3;
	if (strcmp(argv[1], "trip") == 0) {
		trip();
		return 0;
	}
	if (argc != 8)
		return 2;
	streaming = strcmp(argv[4], "nt") == 0;
#ifndef __SSE2__
	if (streaming) {
		printf("0 0\n");
		return 0;
	}
#endif
	size = atoi(argv[5]);
	piece = atoi(argv[6]);
	if (size == 0 || (size & (size - 1)) != 0 || piece == 0 || size % piece != 0 || BUFFER % piece != 0)
		return 2;
	copy();
	return 0;
}
