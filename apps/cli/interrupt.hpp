// Ctrl-C as a flag: the first one asks for a clean end, the second one ends the process.
#pragma once
#include <atomic>

namespace fathom::cli {

/// Becomes true at the first SIGINT after this call.
const std::atomic<bool>& watch_for_interrupt();

}  // namespace fathom::cli
