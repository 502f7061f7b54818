/* Keeps the device busy for so many cycles of its clock. One thread. */
extern "C" __global__ void spin(long long n_cycles) {
  const long long begin = clock64();
  while (clock64() - begin < n_cycles) {
  }
}
