/* Runs a fuzz target once over each file of the directories named: its corpus as an ordinary test.
 */
#include <dirent.h>

#include "fuzz.h"

#define FILE_MAX (1 << 20)

static void replay_file(const char *path)
{
	FILE *file = fopen(path, "rb");
	CHECK(file != NULL);
	uint8_t *data = malloc(FILE_MAX);
	CHECK(data != NULL);
	size_t len = fread(data, 1, FILE_MAX, file);
	fclose(file);
	/* exact size, as libFuzzer does */
	char *copy = copy_exactly(data, len);
	free(data);
	LLVMFuzzerTestOneInput((const uint8_t *)copy, len);
	free(copy);
}

static int replay_directory(const char *name)
{
	DIR *dir = opendir(name);
	CHECK(dir != NULL);
	int file_cnt = 0;
	for (struct dirent *entry = readdir(dir); entry != NULL; entry = readdir(dir)) {
		char path[4096];
		if (entry->d_name[0] == '.')
			continue;
		snprintf(path, sizeof(path), "%s/%s", name, entry->d_name);
		replay_file(path);
		file_cnt++;
	}
	closedir(dir);
	return file_cnt;
}

int main(int argc, char **argv)
{
	int file_cnt = 0;
	for (int i = 1; i < argc; i++)
		file_cnt += replay_directory(argv[i]);
	printf("%d inputs replayed\n", file_cnt);
	return file_cnt > 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
