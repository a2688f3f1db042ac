// Every fault that a folder of kernels can have, and eight processes at once.
#include "jit/disk_cache.hpp"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <csignal>
#include <fstream>
#include <iterator>
#include <vector>

#include "jit/scratch.hpp"

namespace fathom::jit {
namespace {

namespace fs = std::filesystem;
using Bytes = DiskCache::Bytes;

const std::string kKey(64, 'a');

Bytes payload(std::size_t size) {
  Bytes bytes(size);
  for (std::size_t i = 0; i < size; ++i) bytes[i] = static_cast<std::byte>(i * 31 + i / 256);
  return bytes;
}

Bytes must_not_make() { throw std::runtime_error("made although it was there"); }

unsigned mode_of(const fs::path& path) {
  struct stat status {};
  return ::lstat(path.c_str(), &status) == 0 ? status.st_mode & 07777u : 0u;
}

// A cache folder with one entry; what is logged.
struct DiskCacheTest : testing::Test {
  Scratch scratch;
  std::string folder = scratch / "cache";
  std::string file = folder + "/gemm." + kKey.substr(0, 32) + ".cubin";
  Bytes bytes = payload(5000);

  void fill() {
    DiskCache cache(folder);
    ASSERT_EQ(cache.load_or_make("gemm", kKey, [&] { return bytes; }), bytes);
    ASSERT_TRUE(fs::exists(file));
  }
  // The entry is refused with one line that says `why`, made again, and good from then on.
  void expect_rebuilt(const std::string& why) {
    testing::internal::CaptureStderr();
    int made = 0;
    DiskCache cache(folder);
    EXPECT_EQ(cache.load_or_make("gemm", kKey, [&] { return ++made, bytes; }), bytes);
    const std::string log = testing::internal::GetCapturedStderr();
    EXPECT_EQ(made, 1);
    EXPECT_NE(log.find(why), std::string::npos) << log;
    EXPECT_EQ(std::count(log.begin(), log.end(), '\n'), 1) << log;
    EXPECT_EQ(DiskCache(folder).load_or_make("gemm", kKey, must_not_make), bytes);
    EXPECT_EQ(mode_of(file), 0600u);
  }
  // No folder: one line that says why, and everything is made.
  void expect_memory_only(const std::string& where, const std::string& why) {
    testing::internal::CaptureStderr();
    int made = 0;
    DiskCache cache(where);
    for (int i = 0; i < 3; ++i)
      EXPECT_EQ(cache.load_or_make("gemm", kKey, [&] { return ++made, bytes; }), bytes);
    const std::string log = testing::internal::GetCapturedStderr();
    EXPECT_EQ(made, 3);
    EXPECT_NE(log.find("in memory only"), std::string::npos) << log;
    EXPECT_NE(log.find(why), std::string::npos) << log;
    EXPECT_EQ(std::count(log.begin(), log.end(), '\n'), 1) << log;
  }
};

TEST_F(DiskCacheTest, KeepsBytesInPrivateFiles) {
  fill();
  EXPECT_EQ(mode_of(folder), 0700u);
  EXPECT_EQ(mode_of(file), 0600u);
  DiskCache cache(folder);
  EXPECT_EQ(cache.load_or_make("gemm", kKey, must_not_make), bytes);
  EXPECT_EQ(cache.load("gemm", kKey), bytes);
  EXPECT_FALSE(cache.load("gemm", std::string(64, 'b')).has_value());
  for (const auto& entry : fs::directory_iterator(folder)) EXPECT_NE(entry.path().extension(), ".tmp");
}

TEST_F(DiskCacheTest, MakesFoldersAboveIt) {
  DiskCache cache(scratch / "one/two/three/");
  EXPECT_TRUE(cache.usable());
  EXPECT_EQ(mode_of(scratch / "one"), 0700u);
  EXPECT_EQ(mode_of(scratch / "one/two/three"), 0700u);
}

TEST_F(DiskCacheTest, PassesOnWhatMakeThrows) {
  DiskCache cache(folder);
  EXPECT_THROW(cache.load_or_make("gemm", kKey, must_not_make), std::runtime_error);
  EXPECT_EQ(cache.load_or_make("gemm", kKey, [&] { return bytes; }), bytes) << "the lock is free again";
}

TEST_F(DiskCacheTest, EveryFlippedByteIsFound) {
  fill();
  std::fstream edit(file, std::ios::in | std::ios::out | std::ios::binary);
  const auto size = static_cast<int>(fs::file_size(file));
  for (int at = 0; at < size; at += at < 200 ? 1 : 997) {
    edit.seekg(at);
    const char old = static_cast<char>(edit.get());
    edit.seekp(at).put(static_cast<char>(old ^ 4)).flush();
    testing::internal::CaptureStderr();
    const fs::path copy = file + ".kept.tmp";
    fs::copy_file(file, copy);
    EXPECT_FALSE(DiskCache(folder).load("gemm", kKey).has_value()) << "byte " << at;
    EXPECT_NE(testing::internal::GetCapturedStderr().find("damaged"), std::string::npos);
    EXPECT_FALSE(fs::exists(file));
    fs::rename(copy, file);
    edit.close();
    edit.open(file, std::ios::in | std::ios::out | std::ios::binary);
    edit.seekp(at).put(old).flush();
  }
  EXPECT_EQ(DiskCache(folder).load("gemm", kKey), bytes);
}

TEST_F(DiskCacheTest, DamagedEntryIsRebuilt) {
  fill();
  std::fstream(file, std::ios::in | std::ios::out | std::ios::binary).seekp(1000).put('?');
  expect_rebuilt("damaged");
}

TEST_F(DiskCacheTest, TruncatedEntryIsRebuilt) {
  for (const std::uintmax_t size : {0, 10, 100, 5000}) {
    fill();
    fs::resize_file(file, size);
    expect_rebuilt("damaged");
  }
}

TEST_F(DiskCacheTest, EntryOfAnotherKeyIsRebuilt) {
  fill();
  DiskCache cache(folder);
  const std::string other = std::string(32, 'a') + std::string(32, 'c');  // the same file name
  EXPECT_EQ(cache.load_or_make("gemm", other, [] { return payload(7); }), payload(7));
}

TEST_F(DiskCacheTest, EntryThatIsALinkIsRebuilt) {
  fill();
  fs::rename(file, scratch / "elsewhere");
  fs::create_symlink(scratch / "elsewhere", file);
  expect_rebuilt("symbolic link");
  EXPECT_FALSE(fs::is_symlink(file));
  EXPECT_TRUE(fs::exists(scratch / "elsewhere")) << "what the link led to is left alone";
}

TEST_F(DiskCacheTest, EntryThatOthersMayWriteIsRebuilt) {
  fill();
  ASSERT_EQ(::chmod(file.c_str(), 0666), 0);
  expect_rebuilt("may be written by others");
}

TEST_F(DiskCacheTest, LockThatIsALinkIsNotFollowed) {
  fill();
  fs::remove(file);
  fs::remove(file + ".lock");
  fs::create_symlink(scratch / "target", file + ".lock");
  DiskCache cache(folder);
  EXPECT_EQ(cache.load_or_make("gemm", kKey, [&] { return bytes; }), bytes);
  EXPECT_FALSE(fs::exists(scratch / "target"));
}

TEST_F(DiskCacheTest, LooserFolderIsRepairedIfItHoldsKernelsOnly) {
  fill();
  ASSERT_EQ(::chmod(folder.c_str(), 0777), 0);
  EXPECT_EQ(DiskCache(folder).load_or_make("gemm", kKey, must_not_make), bytes);
  EXPECT_EQ(mode_of(folder), 0700u);
  ASSERT_EQ(::chmod(folder.c_str(), 0755), 0);
  std::ofstream(folder + "/letter.txt") << "mine";
  expect_memory_only(folder, "is open to other users");
  EXPECT_EQ(mode_of(folder), 0755u) << "somebody's own folder is left as it is";
}

TEST_F(DiskCacheTest, FolderThatIsALinkIsRefused) {
  fill();
  fs::create_directory_symlink(folder, scratch / "link");
  expect_memory_only(scratch / "link", "is a symbolic link");
}

TEST_F(DiskCacheTest, FolderThatIsAFileIsRefused) {
  std::ofstream(scratch / "file") << "x";
  expect_memory_only(scratch / "file", "cannot be opened");
  expect_memory_only(scratch / "file/below", "cannot be made");
}

TEST_F(DiskCacheTest, WithoutHomeThereIsMemory) {
  EXPECT_EQ(in_child([&] {
              ::unsetenv("HOME");
              ::unsetenv("XDG_CACHE_HOME");
              expect_memory_only("", "HOME");
              return HasFailure() ? 1 : 0;
            }),
            0);
}

TEST_F(DiskCacheTest, DefaultFolder) {
  EXPECT_EQ(in_child([&] {
              ::setenv("HOME", "/home/somebody", 1);
              ::setenv("XDG_CACHE_HOME", "/var/x", 1);
              if (DiskCache::default_directory() != "/var/x/fathom") return 1;
              ::setenv("XDG_CACHE_HOME", "relative", 1);
              if (DiskCache::default_directory() != "/home/somebody/.cache/fathom") return 2;
              return 0;
            }),
            0);
}

TEST_F(DiskCacheTest, ReadOnlyFolderIsReadAndNotWritten) {
  fill();
  EXPECT_EQ(in_child([&] {
              if (::geteuid() == 0) {  // whom modes do not stop
                if (::chmod(scratch.path().c_str(), 0755) != 0 ||
                    ::chown(folder.c_str(), 65534, 65534) != 0 || ::chown(file.c_str(), 65534, 65534) != 0 ||
                    ::setuid(65534) != 0) {
                  return 2;
                }
              }
              ::chmod(folder.c_str(), 0500);
              if (DiskCache(folder).load_or_make("gemm", kKey, must_not_make) != bytes) return 3;
              testing::internal::CaptureStderr();
              DiskCache cache(folder);
              for (int i = 0; i < 3; ++i) {
                if (cache.load_or_make("other", kKey, [&] { return bytes; }) != bytes) return 4;
              }
              const std::string log = testing::internal::GetCapturedStderr();
              return log.find("Permission denied") != std::string::npos &&
                             std::count(log.begin(), log.end(), '\n') == 1
                         ? 0
                         : 5;
            }),
            0);
  ::chmod(folder.c_str(), 0700);
}

TEST_F(DiskCacheTest, ForeignFolderAndForeignEntryAreNotTrusted) {
  if (::geteuid() != 0) GTEST_SKIP() << "only root can make files of somebody else";
  fill();
  ASSERT_EQ(::chown(file.c_str(), 65534, 65534), 0);
  expect_rebuilt("belongs to user 65534");
  ASSERT_EQ(::chown(folder.c_str(), 65534, 65534), 0);
  expect_memory_only(folder, "belongs to user 65534");
}

TEST_F(DiskCacheTest, FullDiskIsMemory) {
  EXPECT_EQ(in_child([&] {
              DiskCache cache(folder);
              ::signal(SIGXFSZ, SIG_IGN);
              const struct rlimit limit {
                1000, 1000
              };  // no file longer than that: writes fail part-way, as on a full disk
              testing::internal::CaptureStderr();
              ::setrlimit(RLIMIT_FSIZE, &limit);
              for (int i = 0; i < 3; ++i) {
                if (cache.load_or_make("gemm", kKey, [&] { return bytes; }) != bytes) return 2;
              }
              if (fs::exists(file)) return 3;
              for (const auto& entry : fs::directory_iterator(folder)) {
                if (entry.path().extension() == ".tmp") return 4;
              }
              const std::string log = testing::internal::GetCapturedStderr();
              return std::count(log.begin(), log.end(), '\n') == 1 ? 0 : 5;
            }),
            0);
}

TEST_F(DiskCacheTest, WhatAKilledProcessLeftIsPassedBy) {
  fill();
  fs::remove(file);
  std::ofstream(file + "." + std::to_string(::getpid()) + "-0.tmp") << "half";
  EXPECT_EQ(DiskCache(folder).load_or_make("gemm", kKey, [&] { return bytes; }), bytes);
  EXPECT_EQ(DiskCache(folder).load_or_make("gemm", kKey, must_not_make), bytes);
}

TEST_F(DiskCacheTest, AProcessThatNeverEndsIsNotWaitedForForEver) {
  fill();
  fs::remove(file);
  const int lock = ::open((file + ".lock").c_str(), O_RDWR | O_CLOEXEC);
  ASSERT_EQ(::flock(lock, LOCK_EX), 0);
  DiskCache cache(folder, std::chrono::milliseconds(30));
  EXPECT_EQ(cache.load_or_make("gemm", kKey, [&] { return bytes; }), bytes);
  ::close(lock);
  EXPECT_EQ(DiskCache(folder).load_or_make("gemm", kKey, must_not_make), bytes);
}

TEST_F(DiskCacheTest, EightProcessesMakeItOnce) {
  const std::string made = scratch / "made";
  std::vector<pid_t> children;
  for (int i = 0; i < 8; ++i) {
    children.push_back(start_child([&] {
      DiskCache cache(folder);
      const Bytes got = cache.load_or_make("gemm", kKey, [&] {
        const int log = ::open(made.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0600);
        if (::write(log, "x", 1) != 1) _exit(2);
        ::close(log);
        ::usleep(100000);
        return bytes;
      });
      return got == bytes ? 0 : 3;
    }));
  }
  for (const pid_t child : children) EXPECT_EQ(exit_code_of(child), 0);
  EXPECT_EQ(fs::file_size(made), 1u);
  EXPECT_EQ(DiskCache(folder).load_or_make("gemm", kKey, must_not_make), bytes);
}

}  // namespace
}  // namespace fathom::jit
