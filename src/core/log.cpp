#include "core/log.hpp"

#include <fmt/format.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

namespace fathom {
namespace {
// A logger of our own, to stderr: stdout belongs to the text or JSON that a program prints.
spdlog::logger& logger() {
  static spdlog::logger instance = [] {
    spdlog::logger made("fathom", std::make_shared<spdlog::sinks::stderr_sink_mt>());
    made.set_pattern("fathom: %v");
    return made;
  }();
  return instance;
}
}  // namespace

void log_info(std::string_view message) { logger().info(message); }
void log_warning(std::string_view message) { logger().warn("warning: {}", message); }

ScopedTimer::~ScopedTimer() {
  const std::chrono::duration<double, std::micro> elapsed = std::chrono::steady_clock::now() - start_;
  log_info(fmt::format("{} {:.1f} us", label_, elapsed.count()));
}

}  // namespace fathom
