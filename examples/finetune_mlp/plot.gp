# gnuplot -e "folder='out'" plot.gp: curves.csv to curves.svg, the validation loss of every method while it is fine-tuned.
file = folder.'/curves.csv'
set terminal svg size 820,480 dynamic background "white" font "sans-serif,14"
set output folder.'/curves.svg'
set datafile separator comma
set key top right
set grid ytics lc rgb "#dddddd"
set border 3
set tics nomirror
set xlabel "fine-tuning step"
set ylabel "validation loss, bits per byte, mean of the parts"
methods = '"full fine-tuning" "LoRA same rank" "LoRA same size" "SplitLoRA" "HydraLoRA"'
set linetype 1 lc rgb "#7f7f7f"
set linetype 2 lc rgb "#9ecae1"
set linetype 3 lc rgb "#1f77b4"
set linetype 4 lc rgb "#2ca02c"
set linetype 5 lc rgb "#d62728"
plot for [i=1:words(methods)] file using (strcol(1) eq word(methods, i) ? $2 : NaN):4 \
  with linespoints pointtype 7 pointsize 0.5 linewidth 2 title word(methods, i)
print folder.'/curves.svg written'
