// The fathom program: hands the arguments to a command and turns failures into one line and an exit code.
#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <sstream>
#include <string>
#include <system_error>

#include "commands.hpp"
#include "fathom/core/context.hpp"
#include "fathom/core/error.hpp"
#include "message.hpp"

namespace {

constexpr int kFailure = 1;   // the machine's fault: memory, a disk, a driver
constexpr int kBadInput = 2;  // the caller's: an argument, an environment variable, a file

constexpr const char* kFooter =
    "Text and JSON go to standard output, everything else to standard error.\n"
    "Exit code: 0 done, 1 this machine failed (memory, disk), 2 bad arguments or files.\n"
    "Environment variables are listed with their values by `fathom info`.";

int fail(int code, const std::string& what) {
  std::fflush(stdout);
  fathom::cli::message("fathom: {}\n", what);
  return code;
}

// The first file that is opened must not take the number of a standard stream that is closed, and get what is
// written to that. Reading from /dev/null refuses to be written, as a closed stream does.
void keep_standard_streams() {
  for (int stream = STDIN_FILENO; stream <= STDERR_FILENO; ++stream) {
    if (::fcntl(stream, F_GETFD) >= 0) continue;
    if (::open("/dev/null", O_RDONLY) != stream) return;  // the lowest number that is free
  }
}

int run(int argc, char** argv) {
  CLI::App program("Runs DeepSeek-V3.2-style models.", "fathom");
  program.set_version_flag("--version", std::string(fathom::version()));
  program.require_subcommand(0, 1);  // none at all is refused below: with words that say more
  program.footer(kFooter);
  fathom::cli::Action action;
  fathom::cli::add_generate(program, action);
  fathom::cli::add_logits(program, action);
  fathom::cli::add_perplexity(program, action);
  fathom::cli::add_info(program, action);
  fathom::cli::add_bench(program, action);
  fathom::cli::add_ops(program, action);
  fathom::cli::add_kernels(program, action);
  fathom::cli::add_warmup(program, action);
  try {
    program.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    std::string command = "fathom";
    for (const CLI::App* chosen : program.get_subcommands()) command += " " + chosen->get_name();
    if (error.get_exit_code() != 0)
      return fail(kBadInput, fmt::format("{}; see `{} --help`", error.what(), command));
    std::ostringstream text;  // of --help or --version, printed as any other command's
    program.exit(error, text);
    action = [text = text.str()] { return fmt::print("{}", text), 0; };
  }
  if (!action) return fail(kBadInput, "a command is needed; see `fathom --help`");
  const int code = action();
  if (std::fflush(stdout) != 0 || std::ferror(stdout) != 0) {
    return fail(kFailure, fmt::format("standard output cannot be written: {}", std::strerror(errno)));
  }
  return code;
}

}  // namespace

int main(int argc, char** argv) {
  keep_standard_streams();
  try {
    return run(argc, argv);
  } catch (const fathom::EnvironmentError& error) {
    return fail(kFailure, error.what());
  } catch (const fathom::Error& error) {
    return fail(kBadInput, error.what());
  } catch (const std::system_error& error) {  // of fmt::print, whose files are the standard streams
    return fail(kFailure, fmt::format("standard output cannot be written: {}", error.code().message()));
  } catch (const std::bad_alloc&) {
    return fail(kFailure, "out of memory");
  } catch (const std::exception& error) {
    return fail(kFailure, fmt::format("internal error: {}", error.what()));
  }
}
