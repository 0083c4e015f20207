// The level sweep in C, as a yardstick: what the same arithmetic costs without a framework.
//
//   cc -O3 -march=native -ffp-contract=fast -fopenmp level_sweep.c -o level_sweep -lm
//   OMP_NUM_THREADS=2 ./level_sweep {plain|simd} STEPS WARMUP INPUTS OUTPUTS
//
// In float64, or with -DREAL=float in float32. INPUTS holds standard normals of that type:
// x[T][D], noise[T], drift[T][D], W[L][D] (the initial true weights, the same for every number of
// data levels), w[D + 1] (the model's, to be doubled).
// OUTPUTS receives the mean losses [L][L], model levels first. Prints the seconds of the sweep,
// data streams included, reading and writing not.
//
//   plain: straightforward loops; every run has a data process of its own
//   simd:  lanes are runs, sorted by model level; the L data streams are computed once; a cascade
//          rescaled by 1 - a a level, so that a level costs one multiply-add an element; what
//          goes in is scaled, not what comes out, which would overflow in float32
#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define D 10
#define F (D + 1)
#define L 19
#define RUNS (L * L)
#ifndef REAL
#define REAL double
#endif
typedef REAL real;
#define LANES (64 / (int)sizeof(real))
typedef real vec __attribute__((vector_size(64)));

static const real A = 0.95, RATE = 0.01, NOISE = 0.1;
static int T, WARMUP;
static real *X, *NOISES, *DRIFT, *W0, *w0;

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec + 1e-9 * t.tv_nsec;
}

// Move the d levels of the true weights one step on; return the target.
static real target(int d, real W[L][D], int t) {
  const real *x = X + (long)t * D, *drift = DRIFT + (long)t * D;
  for (int k = 0; k < D; k++) W[d - 1][k] = A * W[d - 1][k] + (1 - A) * drift[k];
  for (int i = d - 2; i >= 0; i--)
    for (int k = 0; k < D; k++) W[i][k] = A * W[i][k] + (1 - A) * W[i + 1][k];
  real y = NOISE * NOISES[t];
  for (int k = 0; k < D; k++) y += x[k] * W[0][k];
  return y;
}

static real run_plain(int m, int d) {
  real W[L][D], M[L][F], w[F], total = 0;
  memcpy(W, W0, sizeof W);
  memset(M, 0, sizeof M);
  for (int j = 0; j < F; j++) w[j] = 2 * w0[j];
  for (int t = 0; t < T; t++) {
    real y = target(d, W, t), prediction = w[D];
    const real *x = X + (long)t * D;
    for (int k = 0; k < D; k++) prediction += x[k] * w[k];
    real error = prediction - y;
    for (int k = 0; k < D; k++) M[m - 1][k] = 2 * error * x[k];
    M[m - 1][D] = 2 * error;
    for (int i = m - 2; i >= 0; i--)
      for (int j = 0; j < F; j++) M[i][j] = A * M[i][j] + (1 - A) * M[i + 1][j];
    for (int j = 0; j < F; j++) w[j] -= RATE * M[0][j];
    if (t >= WARMUP) total += error * error;
  }
  return total / (T - WARMUP);
}

// LANES runs side by side; levels[] ascend, y is [T][LANES].
static void run_lanes(const int *levels, const vec *restrict y, real *losses) {
  int fewest = levels[0], most = levels[LANES - 1];
  vec N[L][F], keep[L], w[F], scale, total;
  memset(N, 0, sizeof N);
  memset(&total, 0, sizeof total);
  for (int l = 0; l < LANES; l++) {
    scale[l] = -2 * RATE * pow(1 - A, levels[l] - 1);
    for (int i = 0; i < L; i++) keep[i][l] = i < levels[l] - 1 ? A : 0;
    for (int j = 0; j < F; j++) w[j][l] = 2 * w0[j];
  }
  for (int t = 0; t < T; t++) {
    const real *x = X + (long)t * D;
    vec p = w[D] - y[t], q = w[0] * x[0], r = w[1] * x[1], flow[F];
    p += w[2] * x[2]; q += w[3] * x[3]; r += w[4] * x[4]; p += w[5] * x[5];
    q += w[6] * x[6]; r += w[7] * x[7]; p += w[8] * x[8]; q += w[9] * x[9];
    vec error = p + q + r, force = scale * error;
#pragma GCC unroll 11
    for (int k = 0; k < D; k++) flow[k] = force * x[k];
    flow[D] = force;
    int i = most - 2;
    for (; i >= fewest - 1; i--) {  // Levels that only some lanes have.
#pragma GCC unroll 11
      for (int j = 0; j < F; j++) { flow[j] += keep[i] * N[i][j]; N[i][j] = flow[j]; }
    }
    for (; i >= 0; i--) {
#pragma GCC unroll 11
      for (int j = 0; j < F; j++) { flow[j] += A * N[i][j]; N[i][j] = flow[j]; }
    }
#pragma GCC unroll 11
    for (int j = 0; j < F; j++) w[j] += flow[j];
    if (t >= WARMUP) total += error * error;
  }
  for (int l = 0; l < LANES; l++) losses[l] = total[l] / (T - WARMUP);
}

static void sweep_simd(real *losses) {
  real *y = malloc(sizeof(real) * L * T);
#pragma omp parallel for schedule(dynamic, 1)
  for (int d = L; d >= 1; d--) {
    real W[L][D];
    memcpy(W, W0, sizeof W);
    for (int t = 0; t < T; t++) y[(long)(d - 1) * T + t] = target(d, W, t);
  }
#pragma omp parallel
  {
    vec *lanes = aligned_alloc(sizeof(vec), sizeof(vec) * T);
#pragma omp for schedule(dynamic, 1)
    for (int group = (RUNS + LANES - 1) / LANES - 1; group >= 0; group--) {
      int levels[LANES], runs[LANES];
      real out[LANES];
      for (int l = 0; l < LANES; l++) {
        runs[l] = group * LANES + l < RUNS ? group * LANES + l : RUNS - 1;
        levels[l] = runs[l] / L + 1;
      }
      for (int t = 0; t < T; t++)
        for (int l = 0; l < LANES; l++) lanes[t][l] = y[(long)(runs[l] % L) * T + t];
      run_lanes(levels, lanes, out);
      for (int l = 0; l < LANES; l++) losses[runs[l]] = out[l];
    }
    free(lanes);
  }
  free(y);
}

static real *numbers(FILE *file, long count) {
  real *values = malloc(sizeof(real) * count);
  if (fread(values, sizeof(real), count, file) != (size_t)count) exit(3);
  return values;
}

int main(int argc, char **argv) {
  if (argc != 6) return 2;
  T = atoi(argv[2]);
  WARMUP = atoi(argv[3]);
  FILE *file = fopen(argv[4], "rb");
  if (!file) return 3;
  X = numbers(file, (long)T * D);
  NOISES = numbers(file, T);
  DRIFT = numbers(file, (long)T * D);
  W0 = numbers(file, L * D);
  w0 = numbers(file, F);
  fclose(file);
  real losses[RUNS];
  double start = now();
  if (!strcmp(argv[1], "plain")) {
#pragma omp parallel for schedule(dynamic, 1)
    for (int q = RUNS - 1; q >= 0; q--) losses[q] = run_plain(q / L + 1, q % L + 1);
  } else {
    sweep_simd(losses);
  }
  printf("%.6f\n", now() - start);
  file = fopen(argv[5], "wb");
  return !file || fwrite(losses, sizeof(real), RUNS, file) != RUNS || fclose(file);
}
