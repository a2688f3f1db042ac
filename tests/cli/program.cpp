#include "cli/program.hpp"

#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <csignal>
#include <cstdlib>
#include <fstream>
#include <sstream>

namespace fathom::cli_test {
namespace fs = std::filesystem;

namespace {

Outcome run_once(const std::vector<std::string>& arguments, const FathomOptions& options) {
  int out[2];
  int err[2];
  if (pipe2(out, O_CLOEXEC) != 0) throw std::runtime_error("pipe2 failed");
  if (options.terminal) {
    err[0] = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (err[0] < 0 || grantpt(err[0]) != 0 || unlockpt(err[0]) != 0) throw std::runtime_error("no terminal");
    err[1] = open(ptsname(err[0]), O_RDWR | O_NOCTTY | O_CLOEXEC);
  } else if (pipe2(err, O_CLOEXEC) != 0) {
    throw std::runtime_error("pipe2 failed");
  }
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  if (options.stdout_file.empty()) {
    posix_spawn_file_actions_adddup2(&actions, out[1], STDOUT_FILENO);
  } else {
    posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, options.stdout_file.c_str(), O_WRONLY, 0);
  }
  if (options.stderr_file.empty()) {
    posix_spawn_file_actions_adddup2(&actions, err[1], STDERR_FILENO);
  } else {
    posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, options.stderr_file.c_str(), O_WRONLY, 0);
  }
  if (options.closed) {
    posix_spawn_file_actions_addclose(&actions, STDOUT_FILENO);
    posix_spawn_file_actions_addclose(&actions, STDERR_FILENO);
  }

  std::vector<std::string> words{FATHOM_PROGRAM};
  words.insert(words.end(), arguments.begin(), arguments.end());
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  std::vector<std::string> variables;
  for (char** variable = environ; *variable != nullptr; ++variable) variables.emplace_back(*variable);
  for (const auto& [name, value] : options.environment) variables.push_back(name + "=" + value);
  std::vector<char*> envp;
  for (auto variable = variables.rbegin(); variable != variables.rend(); ++variable)
    envp.push_back(variable->data());
  envp.push_back(nullptr);

  pid_t child = 0;
  const int error = posix_spawn(&child, FATHOM_PROGRAM, &actions, nullptr, argv.data(), envp.data());
  posix_spawn_file_actions_destroy(&actions);
  close(out[1]);
  close(err[1]);
  if (error != 0) throw std::runtime_error("cannot run " FATHOM_PROGRAM);

  Outcome run;
  bool interrupted = options.interrupt_after == 0 && options.interrupt_after_ms == 0;
  std::array<pollfd, 2> streams{pollfd{out[0], POLLIN, 0}, pollfd{err[0], POLLIN, 0}};
  while (streams[0].fd >= 0 || streams[1].fd >= 0) {
    const bool timed = !interrupted && options.interrupt_after_ms > 0;
    const bool silent = poll(streams.data(), streams.size(), timed ? options.interrupt_after_ms : -1) == 0;
    for (std::size_t i = 0; i < 2; ++i) {
      if (streams[i].fd < 0 || streams[i].revents == 0) continue;
      std::array<char, 4096> piece;
      const ssize_t count = read(streams[i].fd, piece.data(), piece.size());
      if (count <= 0) {
        close(streams[i].fd);
        streams[i].fd = -1;
        continue;
      }
      (i == 0 ? run.out : run.err).append(piece.data(), static_cast<std::size_t>(count));
    }
    if (!interrupted && (timed ? silent : run.out.size() >= options.interrupt_after)) {
      kill(child, SIGINT);
      interrupted = true;
    }
  }
  int status = 0;
  waitpid(child, &status, 0);
  run.code = WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
  return run;
}

}  // namespace

Outcome fathom(const std::vector<std::string>& arguments, const FathomOptions& options) {
  Outcome run = run_once(arguments, options);
  // Under AddressSanitizer the search for leaks at the end now and then faults itself, in a program whose
  // threads have just ended: github.com/google/sanitizers/issues/1353. That says nothing of the program.
  if (run.err.find("LeakSanitizer has encountered a fatal error") != std::string::npos)
    run = run_once(arguments, options);
  return run;
}

void expect_refused(const Outcome& run, const std::string& text) {
  EXPECT_EQ(run.code, 2) << run.err;
  EXPECT_EQ(run.out, "");
  EXPECT_NE(run.err.find(text), std::string::npos) << "expected: " << text << "\ngot: " << run.err;
  EXPECT_EQ(std::count(run.err.begin(), run.err.end(), '\n'), 1) << run.err;
  EXPECT_EQ(run.err.rfind("fathom: ", 0), 0u) << run.err;
}

void expect_done(const Outcome& run) { EXPECT_EQ(run.code, 0) << run.err; }

std::string bundled_model() { return FATHOM_SOURCE_DIR "/models/tiny-dsv32"; }

const fs::path& random_model() {
  static const TemporaryDirectory folder;
  static const fs::path model = [] {
    const fs::path path = folder / "model";
    ModelConfig config = small_config();
    config.vocab_size = 4096;  // as the tokenizer's
    config.bos_token_id = 0;
    config.eos_token_ids = {1};
    write_checkpoint(path, config);
    for (const char* name : {"tokenizer.json", "tokenizer_config.json"}) {
      fs::copy_file(fs::path(bundled_model()) / name, path / name);
    }
    return path;
  }();
  return model;
}

void copy_random_model(const fs::path& to) { fs::copy(random_model(), to, fs::copy_options::recursive); }

void write_text(const fs::path& file, const std::string& text) {
  std::ofstream(file, std::ios::binary) << text;
}

std::string read_text(const fs::path& file) {
  std::ostringstream text;
  text << std::ifstream(file, std::ios::binary).rdbuf();
  return text.str();
}

std::vector<std::string> names_in(const fs::path& folder) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder)) names.push_back(entry.path().filename());
  std::sort(names.begin(), names.end());
  return names;
}

}  // namespace fathom::cli_test
