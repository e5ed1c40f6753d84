/* SPDX-License-Identifier: Apache-2.0 */
/* Throws through frames of a library: with -DLIBRARY the library, else the program. */
#include <cstdio>
#include <stdexcept>
#include <string>

int throw_at_depth(int depth);

#ifdef LIBRARY
struct Counter {
    int &count;
    ~Counter() { count++; }
};
static int unwound;
int throw_at_depth(int depth) {
    Counter counter{unwound};
    if (depth == 0)
        throw std::runtime_error(std::to_string(unwound));
    return throw_at_depth(depth - 1) + 1;
}
#else
int main() {
    int sum = 0;
    for (int round = 0; round < 20000; round++) {
        try {
            throw_at_depth(round % 20);
        } catch (const std::runtime_error &error) {
            sum = (sum * 31 + std::stoi(error.what())) % 1000003;
        }
    }
    std::printf("%d\n", sum);
}
#endif
