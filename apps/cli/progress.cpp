#include "progress.hpp"

#include <unistd.h>

#include <algorithm>

#include "message.hpp"

namespace fathom::cli {

Progress::Progress(std::string label) : label_(std::move(label)), terminal_(isatty(STDERR_FILENO) == 1) {}

void Progress::show(double fraction) {
  if (!terminal_) return;
  const int percent = std::clamp(static_cast<int>(fraction * 100), 0, 100);
  if (percent == percent_) return;
  percent_ = percent;
  constexpr int kWidth = 40;
  const int filled = percent * kWidth / 100;
  message("\r{:<8} [{:#<{}}{:.<{}}] {:3d} %", label_, "", filled, "", kWidth - filled, percent);
  std::fflush(stderr);
}

void Progress::erase() {
  if (percent_ < 0) return;
  message("\r\x1b[K");
  std::fflush(stderr);
  percent_ = -1;
}

}  // namespace fathom::cli
