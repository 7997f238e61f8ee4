// Work shared out among threads that live for one call: no pool, hence nothing to shut down or to break on fork().
#pragma once

#include <atomic>
#include <cstddef>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

namespace sparsight {

// Calls work(i) for every i in [0, n), the calling thread helping. Items go to whoever is free, so `work` must not
// depend on which thread runs it. The first exception stops further items and is thrown here once all threads ended.
template <class Work>
void for_each_item(std::size_t n, std::size_t threads, Work&& work) {
    std::atomic<std::size_t> next{0};
    std::exception_ptr error;
    std::mutex error_mutex;
    const auto run = [&]() noexcept {
        for (std::size_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < n;) {
            try {
                work(i);
            } catch (...) {
                const std::lock_guard<std::mutex> lock(error_mutex);
                if (!error) error = std::current_exception();
                next.store(n, std::memory_order_relaxed);
            }
        }
    };
    std::vector<std::thread> helpers;
    try {
        helpers.reserve(threads);
        while (helpers.size() + 1 < threads && helpers.size() + 1 < n) helpers.emplace_back(run);
    } catch (const std::system_error&) {
        // The system has no further thread for us: those that started, and this one, do the work.
    }
    run();
    for (std::thread& helper : helpers) helper.join();
    if (error) std::rethrow_exception(error);
}

}  // namespace sparsight
