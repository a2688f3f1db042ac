// What device code asks of the machine it runs on. Included by the emulator, which answers, and by cuda.hpp,
// which gives it the names that device code uses.
//
// Every CUDA thread is a fiber. A fiber runs until it waits; the order in which fibers go on and in which
// asynchronous copies and products land is chosen by a seed, so that several seeds are several interleavings.
#pragma once

namespace fathom::emulator {

struct Index3 {
  unsigned x = 0, y = 0, z = 0;
};

/// Where the running thread is. The machine changes it whenever another fiber goes on.
struct Self {
  Index3 thread, block, block_size, grid_size;
  int lane = 0;
  unsigned rank = 0, cluster = 1;
};
extern "C" const Self* fathom_emulator_self;

// Shared memory has 32-bit addresses: those of the own block below 2^24, others' as mapa() gives them.
void* dynamic_shared();
unsigned shared_address(const void* pointer);
/// The bytes at an address, all inside of the launch's shared memory; else the kernel has failed.
void* shared_bytes(unsigned address, unsigned bytes);
unsigned mapa(unsigned address, unsigned rank);

/// Between two looks at memory that others write: everybody else goes on first.
void pause();

// Waiting together.
void bar(int name, unsigned threads, bool waits);
void syncthreads();
void cluster_arrive();
void cluster_wait();
/// Every lane of `mask` gives a value and gets those of all: a buffer of 32 that lasts until its next call.
const unsigned long long* exchange(unsigned mask, unsigned long long value);

// mbarriers: a count of arrivals and a count of bytes on the way; both at zero complete a phase.
void mbarrier_init(unsigned barrier, unsigned count);
void mbarrier_arrive(unsigned barrier);
void mbarrier_expect(unsigned barrier, unsigned bytes);
void mbarrier_wait(unsigned barrier, unsigned parity);

// Copies that land later.
void copy_async(unsigned to, const void* from, unsigned bytes, bool live);  // zeros unless live
void copy_async_arrive(unsigned barrier);
void copy_async_wait();
void copy_bulk(unsigned to, const void* from, unsigned bytes, unsigned barrier);
void store_async(unsigned to, unsigned value, unsigned barrier);
/// `blocks`: a bit for every block of the cluster that gets the box; 0: the own one.
void tensor_load(unsigned to, const void* map, unsigned barrier, int rank, const int* at, unsigned blocks);
void tensor_store(const void* map, unsigned from, int rank, const int* at);
void bulk_commit();
void bulk_wait_read();

// Products of a warpgroup.
/// `rows`: operand A's where it is in registers; then `a` is 0.
void wgmma(bool fp8, int columns, float* d, unsigned long long a, unsigned long long b, bool add,
           char transposed, const unsigned* rows = nullptr);
void wgmma_commit();
void wgmma_wait(int pending);

[[noreturn]] void trap(const char* why);

}  // namespace fathom::emulator
