#include "interrupt.hpp"

#include <csignal>

namespace fathom::cli {
namespace {
// A signal handler can reach nothing but a global.
std::atomic<bool> g_interrupted = false;
static_assert(std::atomic<bool>::is_always_lock_free);
}  // namespace

const std::atomic<bool>& watch_for_interrupt() {
  struct sigaction action {};
  action.sa_handler = [](int) { g_interrupted = true; };
  action.sa_flags = SA_RESTART | static_cast<int>(SA_RESETHAND);  // the second Ctrl-C finds the default again
  sigaction(SIGINT, &action, nullptr);
  return g_interrupted;
}

}  // namespace fathom::cli
