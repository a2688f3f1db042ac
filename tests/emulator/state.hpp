// The machine's state: the threads of one cluster of blocks, what they wait for, and what is on its way.
#pragma once
#include <array>
#include <cstdint>
#include <deque>
#include <functional>
#include <list>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "emulator/machine.hpp"

namespace fathom::emulator {

using u8 = std::uint8_t;
using u32 = std::uint32_t;
using u64 = std::uint64_t;

inline constexpr u32 kSharedBase = 0x400;      // the hardware keeps the first 1024 bytes for itself
inline constexpr u32 kMostShared = 227 << 10;  // of one block
inline constexpr int kRankShift = 24;

struct Block;
struct Cluster;

/// An asynchronous operation; `group` counts the commits before it.
struct Operation {
  std::function<void()> run;
  u32 group = 0;
};
struct OperationQueue {          // of one thread: lands in order
  std::list<Operation> waiting;  // asks for no memory while it is empty, as most are
  u32 commits = 0;
};

struct Fiber {
  u8* stack = nullptr;      // its lowest byte
  void* pointer = nullptr;  // the stack pointer, while another fiber runs
};

struct Thread : Self {
  Fiber fiber;
  Block* home = nullptr;
  int linear = 0;
  bool waits = false;
  bool ended = false;
  std::string (*reason)(const Thread&) = nullptr;  // why it waits, for the report
  u32 detail[2] = {};
  u32 cluster_phase = 0;  // which it has arrived at
  OperationQueue copies, stores;
  u32 products = 0, product_commits = 0;  // of the warpgroup, issued by this thread
};

/// Lanes that wait for one another; each phase has its own buffer, as a lane may be one phase ahead.
struct Exchange {
  u32 arrived = 0;
  u32 phase = 0;
  u64 values[2][32];
  std::vector<Thread*> waiting;
};
struct Warp {
  Exchange whole;
  std::unordered_map<u32, Exchange> parts;  // by mask
};
struct NamedBarrier {
  u32 arrived = 0, expected = 0;
  std::vector<Thread*> waiting;
};

struct Product {
  bool fp8, add;
  char transposed;  // 'a' or 'b' if that operand is, else 0
  int columns;
  u64 a, b;
  u32 group;
  int issued = 0;  // threads
  bool done = false;
  float* d[128];
  std::vector<std::array<u32, 4>> rows = {};  // of operand A, of each thread, where it is in registers
};
struct Warpgroup {
  std::deque<Product> products;
  u32 first = 0;  // number of the product at the front
  std::vector<Thread*> waiting;
};

struct Block {
  Cluster* cluster = nullptr;
  Index3 index;
  u32 rank = 0;
  u8* shared = nullptr;  // of address kSharedBase; static shared memory lies before the dynamic part
  u32 live = 0;
  NamedBarrier bars[16];
  NamedBarrier sync;
  std::vector<Warp> warps;
  std::vector<Warpgroup> warpgroups;
  std::unordered_map<u32, std::vector<Thread*>> mbarrier_waits;  // by address
};

struct Launch {
  void (*entry)(void**) = nullptr;
  void** parameters = nullptr;
  Index3 grid, threads;
  u32 cluster = 1;
  u32 static_bytes = 0, dynamic_bytes = 0;
  void* statics = nullptr;
  std::string name;

  u32 shared_end() const { return kSharedBase + (static_bytes + 15) / 16 * 16 + dynamic_bytes; }
};

struct Cluster {
  const Launch* launch = nullptr;
  std::vector<Block> blocks;
  std::deque<Thread> threads;
  std::deque<Thread*> ready;
  std::deque<Operation> operations;  // that belong to no thread's queue; land in any order
  std::vector<Thread*> queued;       // threads whose queues are not empty; each once
  u32 cluster_phase = 0, cluster_arrived = 0, cluster_ended = 0;
  std::vector<Thread*> cluster_waiting;
  std::vector<Thread*> paused;  // until nothing else goes on
  int pauses = 0;               // of all of them, since something else went on
  u32 live = 0;
  std::string failure;
};

Thread& self();
Cluster& cluster();
/// The running thread waits until wake().
void wait(std::string (*reason)(const Thread&), u32 first = 0, u32 second = 0);
void wake(Thread& thread);
void wake_all(std::vector<Thread*>& waiting);
/// Whether something that may happen now or later happens now.
bool happens_early();
void enqueue(OperationQueue& queue, std::function<void()> run);
/// Lands what a queue holds of the groups before the last `pending`; -1: everything.
void drain(OperationQueue& queue, int pending);
void complete_bytes(Block& block, u32 barrier, u32 bytes);
void arrive(Block& block, u32 barrier);
/// The block and the bytes behind an address.
Block& block_of(u32 address);
u8* bytes_of(Block& block, u32 address, u32 bytes);
[[noreturn]] void fail(const std::string& why);

/// Runs a whole grid. The failure, or nothing.
std::string run(const Launch& launch);

}  // namespace fathom::emulator
